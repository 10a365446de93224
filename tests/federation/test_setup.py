"""What the clients hold is enough for all that is asked of them, or it is said at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from flexlora.errors import DataError
from flexlora.federation import prepare
from flexlora.federation.sampling import sample
from flexlora.federation.streams import Streams
from small import SMALL


def config_of(folder: Path, seed: int, **evaluation: Any) -> Config:
    """Two clients, of which b holds long examples alone, and one is kept out to validate."""
    rows = [
        {"who": who, "q": "Which is a colour? " * times, "a": f"red {i}"}
        for who, times in (("a", 1), ("b", 99))
        for i in range(9)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"prompt": "q", "response": "a", "client": "who"}
    limits = {"max_tokens": 128, "skip_too_long": True}
    tables: dict[str, Any] = {
        "data": {"source": "jsonl", "path": str(folder / "rows.jsonl"), **columns, **limits},
        "partition": {"by": "client"},
        "federation": {"seed": seed, "rounds": 1, "clients_per_round": 1},
        "evaluation": {"unseen": False, "validation_clients": 1, "on_clients": "off", **evaluation},
    }
    return parse_config({**SMALL, **tables})


def kept_out(seed: int) -> list[str]:
    return sample(["a", "b"], 1, Streams(seed).generator("validation_clients"))


def test_clients_kept_out_to_validate_hold_something_that_fits(tmp_path: Path) -> None:
    seeds = {kept_out(seed)[0]: seed for seed in range(20)}
    with pytest.raises(DataError) as error:
        prepare(config_of(tmp_path, seeds["b"]))
    assert str(error.value) == (
        "the clients kept out of training (1) hold no example that fits 128 tokens, but "
        "evaluation.every is 1; raise data.max_tokens or evaluation.validation_clients, or set "
        "evaluation.every to 0"
    )
    assert prepare(config_of(tmp_path, seeds["b"], every=0)).examples.validation == ()
    with pytest.raises(DataError, match="the training clients of source jsonl hold no example"):
        prepare(config_of(tmp_path, seeds["a"]))


def test_what_is_left_out_as_too_long_is_named_by_its_place(tmp_path: Path) -> None:
    config = config_of(tmp_path, 0, validation_clients=0)
    (note,) = (x for x in prepare(config).notes if "too long" in x)
    assert note.startswith("left out as too long for data.max_tokens = 128: 9 examples: 'rows:1")
    assert {f"rows:{i}" for i in range(10, 19)} == set(re.findall(r"rows:\d+", note))
    fitting = config.data.model_copy(update={"max_tokens": 500, "skip_too_long": False})
    config = config.model_copy(update={"data": fitting})
    with pytest.raises(DataError, match=r"7 examples are too long .*'rows:1\d' \(\d+ tokens\); "):
        prepare(config)


def test_text_that_spells_a_special_token_is_told(tmp_path: Path) -> None:
    config = config_of(tmp_path, 0, validation_clients=0)
    rows = tmp_path / "rows.jsonl"
    assert not [x for x in prepare(config).notes if "special token" in x]
    rows.write_text(rows.read_text().replace('"}', '</s>"}'))
    (note,) = (x for x in prepare(config).notes if "special token" in x)
    assert "with '</s>'; take it out of the data" in note
