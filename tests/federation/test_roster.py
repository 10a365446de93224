"""Who trains at which rank: by name, by the data, as before, and drawn; ranks that are cut."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flexlora.config.clients import ClientsConfig
from flexlora.errors import ConfigError, DataError, RankError
from flexlora.federation import Session, prepare
from flexlora.federation.roster import Roster
from flexlora.federation.streams import Streams
from flexlora.rules import make_rule
from flexlora.runs.overview import overview
from flexlora.runs.run_directory import Run
from small import LAYERS, SMALL, small

CLIENTS = ["ward a", "ward b", "clinic", "lab"]


def roster(said: Mapping[str, str] | None = None, /, **asked: Any) -> Roster:
    given = ClientsConfig(**{**SMALL["clients"], **asked})
    return Roster.of(given, CLIENTS, LAYERS, Streams(0), said=said)


def test_a_named_client_has_its_rank_whatever_the_scale_and_the_mix_deals_out_the_others() -> None:
    found = roster(ranks={"lab": 3, "clinic": 3, "ward a": {"q_proj": 1, "all": 4}}, scale=0.5)
    assert {name: found.types[name] for name in CLIENTS if name != "ward b"} == {
        "lab": "rank 3",
        "clinic": "rank 3",
        "ward a": "rank q_proj 1, all 4",
    }
    assert found.types["ward b"] in ("low", "high")
    assert set(found.ranks["rank 3"].values()) == {3}
    assert list(found.ranks["rank q_proj 1, all 4"].values()) == [1, 4]
    assert found.fresh_store().ranks["lab"] == found.ranks["rank 3"]


def test_the_data_may_say_the_type_or_the_rank_and_a_name_in_the_config_wins() -> None:
    said = {"ward a": "high", "ward b": "low", "clinic": "3", "lab": "low"}
    found = roster(said, ranks={"lab": 1})
    assert found.types == {"ward a": "high", "ward b": "low", "clinic": "rank 3", "lab": "rank 1"}


def test_ranks_beyond_a_layer_are_cut_and_told_or_refused() -> None:
    found = roster(types={"low": 2, "high": 6})
    assert list(found.ranks["high"].values()) == [5, 4]
    assert found.notes == (
        "ranks above min(m, n) of a layer are cut to that: high (6) in 2 of 2 layers; "
        "clients.strict = true refuses them",
    )
    assert roster(types={"low": 2, "high": 4}).notes == ()
    with pytest.raises(RankError, match=r"rank 6 for layer x.q_proj is above min\(m, n\) = 5"):
        roster(types={"low": 2, "high": 6}, strict=True)


@pytest.mark.parametrize(
    ("said", "asked", "error", "words"),
    [
        ({}, {"ranks": {"Lab": 3}}, ConfigError, "clients.ranks has 'Lab', .* mean 'lab'"),
        ({"lab": "hihg"}, {}, DataError, "client 'lab' is of type 'hihg' .* mean 'high'"),
        ({"lab": "0"}, {}, ConfigError, "rank 0 of client 'lab' in the data is below 1"),
        ({"lab": "9" * 30}, {}, DataError, "client 'lab' is of type '9999"),
    ],
)
def test_names_that_there_are_not(
    said: dict[str, str], asked: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        roster(said, **asked)


def rows(path: Path, types: Mapping[str, str]) -> Path:
    """Six rows of each client, which say its type."""
    lines = [
        {"q": f"ask {client} {i}", "a": "yes", "who": client, "device": kind}
        for client, kind in types.items()
        for i in range(6)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def own_data(path: Path, /, **data: Any) -> dict[str, dict[str, Any]]:
    given = {"source": "jsonl", "path": str(path), "prompt": "q", "response": "a", "client": "who"}
    evaluation = {"unseen": False, "every": 0, "on_clients": "off"}
    return {
        "data": {**given, "max_tokens": 200, **data},
        "partition": {"by": "client"},
        "evaluation": {**SMALL["evaluation"], **evaluation},
    }


def config(path: Path, /, clients: Mapping[str, Any] | None = None, **data: Any) -> Any:
    tables = {key: value for key, value in SMALL.items() if key != "data"}
    given = own_data(path, **data)
    from flexlora.config.config_file import parse_config

    return parse_config({**tables, **given, "clients": {**SMALL["clients"], **(clients or {})}})


def test_a_column_names_the_types(tmp_path: Path) -> None:
    said = {"a": "low", "b": "3", "c": "high", "d": "high"}
    setup = prepare(config(rows(tmp_path / "d.jsonl", said), type="device"), outline=True)
    assert setup.roster.types == {"a": "low", "b": "rank 3", "c": "high", "d": "high"}
    mixed = config(rows(tmp_path / "e.jsonl", said), type="q")
    with pytest.raises(DataError, match="client 'a' holds rows of the types 'ask a 0' and 'ask a"):
        prepare(mixed, outline=True)


def test_a_continued_and_a_resumed_run_keep_who_had_which_rank(tmp_path: Path) -> None:
    """More clients and other names in front: a new draw would deal otherwise."""
    first = rows(tmp_path / "d.jsonl", dict.fromkeys(("m", "n", "o", "p"), "x"))
    run = tmp_path / "run"
    Session.of(config(first)).play(run)
    before = {c: x["type"] for c, x in overview(run)["clients"].items()}
    rows(first, dict.fromkeys(("a", "b", "m", "n", "o", "p"), "x"))
    session = Session.continuing(run, overrides=["federation.rounds=4"])
    types = session.setup.roster.types
    assert {c: types[c] for c in before} == before
    assert sorted(types[c] for c in ("a", "b")) == ["high", "low"]
    more = Session.continuing(run, overrides=["federation.rounds=4"]).play(tmp_path / "more").folder
    assert Session.resuming(more).setup.roster.types == types
    anew = ["federation.rounds=4", "clients.mix={high = 1.0}"]
    assert set(Session.continuing(run, overrides=anew).setup.roster.types.values()) == {"high"}


def test_ranks_are_told_as_they_are_trained(tmp_path: Path) -> None:
    asked = small(rule={"name": "fedit"}, clients={"types": {"low": 2, "high": 9}})
    setup = prepare(asked, outline=True)
    assert setup.trained_ranks(make_rule("fedit")) == {"low": "2", "high": "2"}
    assert setup.trained_ranks(make_rule("flexlora")) == {"low": "2", "high": "9"}
    run = Run.open(Session.of(asked).play(tmp_path / "run").folder)
    assert run.resolved["ranks"] == {"low": "2", "high": "2"}


def test_a_type_that_nobody_can_be_of_is_told() -> None:
    types = {"low": 2, "high": 9, "small.attention": 5}
    setup = prepare(small(clients={"types": types}), outline=True)
    assert (
        "of clients.types nobody is small.attention: neither clients.mix nor the data names it"
        in setup.notes
    )
    plain = prepare(small(clients={"types": {"low": 2, "high": 9}}), outline=True)
    assert not any("nobody is" in note for note in plain.notes)
