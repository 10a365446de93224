"""A rehearsal of hostile clients: who attacks, what comes of it, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.config import Config
from flexlora.config.config_file import parse_config
from flexlora.config.hostile import HostileConfig
from flexlora.errors import ConfigError
from flexlora.federation import Setup, prepare, run
from flexlora.federation.hostile import hostile_of, note
from flexlora.runs.readout import load_state
from flexlora.runs.run_directory import Run
from reference import as_in_production
from small import small

ADAPTERS = ("scaled", "sign_flip", "random", "shuffled", "little_is_enough")


def config(attack: str, **hostile: object) -> Config:
    return small(
        data=DATA,
        hostile={"attack": attack, "share": 0.4, **hostile},
        federation={"rounds": 1, "clients_per_round": 6},
        evaluation={"unseen": False, "on_clients": "off", "every": 0},
    )


DATA = {"train_tasks": 6}  # Two of six are hostile: enough to collude.


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(small(data=DATA))


def state(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {name: dict(x) for name, x in load_state(Run.open(folder), "last").layers.items()}


def differ(one: Path, other: Path) -> bool:
    a, b = state(one), state(other)
    return any(not torch.equal(a[name][key], b[name][key]) for name in a for key in a[name])


@pytest.mark.parametrize("attack", ADAPTERS)
def test_an_attack_changes_the_round_and_the_run_says_so(
    setup: Setup, tmp_path: Path, attack: str
) -> None:
    clean = run(config("none"), tmp_path / "clean", setup=setup).folder
    hostile, again = (
        run(config(attack), tmp_path / name, setup=setup).folder for name in ("hostile", "again")
    )
    assert differ(clean, hostile)
    assert not differ(hostile, again)
    data = json.loads((hostile / "data.json").read_text())
    (words,) = [note for note in data["notes"] if note.startswith("a rehearsal")]
    assert f"[hostile] attack by {attack}: " in words
    assert not [x for x in json.loads((clean / "data.json").read_text())["notes"] if "rehear" in x]
    (record,) = Run.open(hostile).records()
    assert record.failures == 0


def test_an_attack_travels_in_as_many_bits_as_what_was_trained(
    setup: Setup, tmp_path: Path
) -> None:
    records = {}
    for attack in ("none", "sign_flip"):
        tables = config(attack).document()
        tables["federation"]["wire"] = "int8"
        folder = run(parse_config(tables), tmp_path / attack, setup=setup).folder
        (records[attack],) = Run.open(folder).records()
    assert records["none"].bytes_up == records["sign_flip"].bytes_up
    assert differ(tmp_path / "none", tmp_path / "sign_flip")


def test_the_share_is_of_all_clients_and_drawn_by_the_seed() -> None:
    clients = [f"c{k}" for k in range(11)]
    found = hostile_of(config("scaled"), clients)
    assert len(found) == 4
    assert found == hostile_of(config("random"), clients[::-1])
    other = config("scaled").model_copy(
        update={"federation": config("scaled").federation.model_copy(update={"seed": 9})}
    )
    assert found != hostile_of(other, clients)
    assert len(hostile_of(config("scaled", share=0.01), clients)) == 1
    assert hostile_of(config("none"), clients) == ()


def test_flipped_labels_are_trained_on_and_never_scored(setup: Setup) -> None:
    clean, flipped = (prepare(config(x), setup).examples for x in ("none", "label_flip"))
    assert flipped.hostile
    for client, examples in clean.train.items():
        pairs = list(zip(examples, flipped.train[client], strict=True))
        assert all(one.prompt == other.prompt for one, other in pairs)
        changed = [one.response != other.response for one, other in pairs]
        assert any(changed) == (client in flipped.hostile)
        alike = len({one.response for one in examples}) == 1
        assert all(changed) or client not in flipped.hostile or alike
    assert flipped.validation == clean.validation
    assert flipped.held_out == clean.held_out


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"federation": {"mode": "local"}}, "federation.mode is 'local', where no client's answer"),
        ({"hostile": {"attack": "little_is_enough", "share": 0.1}}, "of 4 clients, which is one"),
        ({"training": {"host": "slora"}}, "training.host is slora, whose first rounds send single"),
    ],
)
def test_what_it_does_not_go_with_is_refused(tables: dict[str, Any], message: str) -> None:
    with as_in_production(), pytest.raises(ConfigError, match=message):
        prepare(small(**{"hostile": {"attack": "scaled"}, **tables}))


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        ({"attack": "scale"}, r'hostile\.attack is "scale"; did you mean .scaled'),
        ({"share": 0.5}, r"hostile\.share is 0\.5, expected below 0\.5"),
        ({"strength": 0.0}, r"hostile\.strength is 0\.0, expected above 0"),
    ],
)
def test_bad_values_are_told(hostile: dict[str, object], message: str) -> None:
    with as_in_production(), pytest.raises(ConfigError, match=message):
        small(hostile=hostile)


def test_a_rehearsal_that_names_no_attack_is_told() -> None:
    nobody = "[hostile] has no attack, so nobody is hostile; set hostile.attack, or leave it out"
    for given in ({"share": 0.4}, {"strength": 2.0}):
        assert note(HostileConfig.model_validate(given), ()) == (nobody,)
    assert note(HostileConfig(), ()) == ()
    flipped = HostileConfig(attack="label_flip", strength=2.0)
    (words,) = note(flipped, ("a",))
    assert words.endswith(": a; hostile.strength is 2, and label_flip has none")
