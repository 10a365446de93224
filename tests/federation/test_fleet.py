"""Clients by their devices: who has which, what it affords, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devices import CLIENTS, DEVICES, device_file, on_devices
from flexlora.adapters import Ranks, ranks_in_words
from flexlora.config.settings import played_rule
from flexlora.errors import ConfigError, DataError, RunError
from flexlora.federation.allocating import _Allocation
from flexlora.federation.roster import own_ranks
from flexlora.federation.session import Session
from flexlora.federation.setup import Setup, prepare
from flexlora.rules import make_rule
from flexlora.runs import load_adapter
from flexlora.runs.run_directory import Run

LARGE = '[large]\nclients = 4\ndevice = "H100"\n'  # Room for any rank.


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return device_file(tmp_path_factory.mktemp("devices"))


@pytest.fixture(scope="module")
def setup(file: Path) -> Setup:
    return prepare(on_devices(file), outline=True)


def ranks(setup: Setup) -> dict[str, int]:
    return {kind: max(held.values()) for kind, held in setup.roster.ranks.items()}


def test_each_class_trains_at_the_rank_that_its_memory_holds(setup: Setup) -> None:
    """Up to the next one: the dry run's model of memory decides."""
    assert setup.fleet is not None
    assert sorted(setup.roster.types) == sorted(CLIENTS)
    assert setup.roster.counts() == {"clinics": 1, "phones": 3}
    found = ranks(setup)
    assert 1 < found["phones"] < found["clinics"] == 16
    rule, phones = make_rule("flexlora"), [c for c, x in setup.fleet.of.items() if x == "phones"]
    setting = setup.foresight.heaviest(rule, phones)
    held = setup.roster.ranks["phones"]
    assert setup.foresight.memory(held, setting).peak <= 14.9e6
    more = {name: rank + 1 for name, rank in held.items()}
    assert setup.foresight.memory(more, setting).peak > 14.9e6
    assert setup.fleet.why["phones"].startswith("memory; 14.9 MB of 14.9 MB, ")
    assert setup.fleet.why["clinics"].startswith("clients.max_rank 16; ")


def test_a_deadline_lowers_a_rank_only_where_that_makes_somebody_be_in_time(
    setup: Setup, file: Path
) -> None:
    """Who is late at any rank decides none, and is told."""
    assert setup.fleet is not None
    slow = 'uplink = "20 kbit/s"'
    given = DEVICES.replace('uplink = "2 Mbit/s"', slow)
    path = device_file(file.parent / "..", given)
    like = prepare(on_devices(path, federation={"deadline": "30 s"}), setup, outline=True)
    assert like.fleet is not None
    assert 1 < ranks(like)["phones"] < ranks(setup)["phones"]
    assert like.fleet.why["phones"].startswith("the deadline; ")
    late = prepare(on_devices(path, federation={"deadline": "1 s"}), setup, outline=True)
    assert ranks(late)["phones"] == 1
    assert any("class phones meets the deadline or the bytes at no rank" in x for x in late.notes)


def test_named_ranks_go_before_devices_and_names_in_the_file_before_a_draw(
    setup: Setup, tmp_path: Path
) -> None:
    phones = DEVICES.replace("clients = 3", f'clients = ["{CLIENTS[1]}"]')
    named = f'[lab]\ndevice = "laptop"\nclients = ["{CLIENTS[3]}"]\n' + phones
    config = on_devices(device_file(tmp_path, named), clients={"ranks": {CLIENTS[1]: 64}})
    found = prepare(config, setup, outline=True)
    assert found.fleet is not None
    assert found.fleet.of[CLIENTS[3]] == found.roster.types[CLIENTS[3]] == "lab"
    assert (found.fleet.of[CLIENTS[1]], found.roster.types[CLIENTS[1]]) == ("phones", "rank 64")
    assert found.roster.types[CLIENTS[0]] == "clinics"
    assert f"client {CLIENTS[1]} trains at rank 64 by name, which takes" in found.notes[0]
    assert found.notes[0].endswith("and its device (phones) has 14.9 MB")


def test_the_papers_proportion_of_ranks_is_kept_by_its_patterns(setup: Setup, file: Path) -> None:
    """What a run writes down gives back what was allotted."""
    config = on_devices(file, clients={"order": "ffn-first", "max_rank": 40})
    found = prepare(config, setup, outline=True)
    assert found.fleet is not None
    for kind, patterns in found.fleet.afforded.items():
        whole = found.roster.ranks[kind]
        assert patterns.resolve(found.model.layers, clip=True) == whole
        assert isinstance(patterns, Ranks)
    for held in found.roster.ranks.values():
        top = max(held.values())
        assert min(held.values()) == max(1, top * 30 // 200)


@pytest.mark.parametrize("order", ["ffn-first", "uniform"])
@pytest.mark.parametrize("targets", [["attention"], ["all-linear"], ["q_proj", "down_proj"]])
def test_what_is_allotted_is_what_is_trained_after_every_step(
    tmp_path: Path, order: str, targets: list[str]
) -> None:
    """Also where no layer has the largest share, and where one that has it can hold no more."""
    file = device_file(tmp_path, LARGE)
    clients = {"order": order, "max_rank": 400}
    config = on_devices(file, clients=clients, model={"targets": targets})
    found = prepare(config, outline=True)
    assert found.fleet is not None
    allocation = _Allocation(found.fleet, config, found.foresight, {}, 1)
    steps = len(allocation.order.steps)
    assert steps >= 128
    for step in range(1, steps + 1):
        held = allocation.order.ranks(step)
        assert allocation._ranks(held).resolve(found.model.layers, clip=True) == held


@pytest.mark.parametrize("targets", [["attention"], ["all-linear"]])
def test_a_run_trains_at_the_ranks_that_it_tells_of(tmp_path: Path, targets: list[str]) -> None:
    file, clients = device_file(tmp_path, LARGE), {"order": "ffn-first", "max_rank": 128}
    found = prepare(on_devices(file, clients=clients, model={"targets": targets}), outline=True)
    assert found.fleet is not None
    told = {one.device: one.ranks for one in found.fleet.allotted}
    assert told == {kind: ranks_in_words(held) for kind, held in found.roster.ranks.items()}


@pytest.mark.parametrize(
    ("changes", "who"),
    [
        ({"rule": {"name": "fedit"}}, "rule fedit, which has"),
        ({"clients": {"level": "lowest"}}, "clients.level, with"),
    ],
)
def test_where_all_train_at_one_rank_that_one_is_told_and_what_it_takes(
    setup: Setup, file: Path, changes: dict[str, Any], who: str
) -> None:
    found = prepare(on_devices(file, **changes), setup, outline=True)
    assert found.fleet is not None
    rule, lowest = played_rule(found.config), ranks(setup)["phones"]
    trained = rule.ranks_for(found.spec, found.roster.ranks["clinics"])
    assert {one.ranks for one in found.fleet.allotted} == {ranks_in_words(trained)}
    assert set(trained.values()) == {lowest}
    clinics = [c for c, x in found.fleet.of.items() if x == "clinics"]
    peak = found.foresight.memory(trained, found.foresight.heaviest(rule, clinics)).peak
    assert found.fleet.planned["clinics"]["peak"] == peak
    words = f"{who} one rank for all (its own: 16 by clients.max_rank 16); "
    assert found.fleet.why["clinics"].startswith(words)
    assert found.fleet.why["phones"].startswith("memory; ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clients": {"mix": "uniform"}}, "devices is .* and mix is 'uniform', which both say"),
        ({"clients": {"types": {"a": 1}}}, "devices is .* and types is"),
        ({"clients": {"scale": 0.5}}, r"devices is .* and scale is 0\.5"),
        ({"clients": {"traffic": 5}}, "clients.traffic is 5, expected text"),
        ({"clients": {"traffic": "5 s"}}, "clients.traffic: it is '5 s', which is not an am"),
        ({"federation": {"deadline": "10"}}, "federation.deadline: it is '10' without a unit"),
        (
            {"clients": {"devices": None}, "federation": {"deadline": "9 s"}},
            "max_rank is 16, which",
        ),
        (
            {"clients": {"devices": None, "max_rank": None}, "federation": {"deadline": "9 s"}},
            "federation.deadline is 9 s, but clients.devices is not given",
        ),
        (
            {"federation": {"deadline": "0.00001 s"}},
            "federation.deadline is 0.00001 s, which no device class meets: .*, the closest, takes "
            ".* at rank 1, .* too long",
        ),
        ({"clients": {"traffic": "2 kB"}}, "clients.traffic is 2 kB, which no device class keeps"),
        ({"clients": {"ranks": {"nobody": 3}}}, "clients.ranks has 'nobody'"),
    ],
)
def test_what_does_not_go_together_is_told(
    setup: Setup, file: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare(on_devices(file, **changes), setup, outline=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            DEVICES.replace("14.9", "9"),
            "class phones of clients.devices cannot hold tiny: at rank 1 it takes .* more than the "
            "9.0 MB that it has; set model.checkpointing to true, or give its clients another",
        ),
        (DEVICES.replace("14.9", "2"), "take a smaller model, or give its clients another device"),
        (
            DEVICES.replace("clients = 3", 'clients = ["arithmetic.one_mroe"]'),
            "client 'arithmetic.one_mroe' of phones is not in the data; did you mean",
        ),
    ],
)
def test_devices_that_cannot_be_used_are_told(
    setup: Setup, tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare(on_devices(device_file(tmp_path, text)), setup, outline=True)


def test_the_data_may_say_the_device(setup: Setup) -> None:
    asked, classes = setup.config.clients, ["phones", "clinics"]
    assert own_ranks(asked, CLIENTS, {CLIENTS[0]: "phones", CLIENTS[1]: "7"}, classes) == {
        CLIENTS[1]: "rank 7"
    }
    with pytest.raises(DataError, match="has the device 'phoens' in the data; did you mean"):
        own_ranks(asked, CLIENTS, {CLIENTS[0]: "phoens"}, classes)


def test_a_run_keeps_its_devices_and_needs_the_same_to_go_on(tmp_path: Path) -> None:
    """Readers have no file of devices: who has which, and why, stands in the run."""
    path = device_file(tmp_path)
    own = dict.fromkeys(CLIENTS[:2], 3)
    config = on_devices(
        path, federation={"rounds": 1}, evaluation={"unseen": False}, clients={"ranks": own}
    )
    folder = Session.of(config).play(tmp_path / "run").folder
    run = Run.open(folder)
    phones = run.resolved["afforded"]["phones"]["all"]
    assert run.resolved["ranks"]["phones"] == str(phones)
    told = json.loads((folder / "data.json").read_text())["devices"]
    assert set(told["phones"]["clients"]) | set(told["clinics"]["clients"]) == set(CLIENTS)
    assert told["phones"]["why"].startswith("memory; ")
    path.unlink()
    adapter = load_adapter(folder, type="phones")
    assert max(adapter.ranks.values()) == phones
    with pytest.raises(ConfigError, match=r"device file .* does not exist"):
        Session.resuming(folder).setup  # noqa: B018
    device_file(tmp_path, DEVICES.replace("8 Mbit/s", "9 Mbit/s"))
    with pytest.raises(RunError, match=r"the file of devices of .* has changed since the run"):
        Session.resuming(folder).setup  # noqa: B018
    device_file(tmp_path)
    more = Session.continuing(folder, overrides=["federation.rounds=2"])
    assert more.setup.roster.types == Session.of(config).setup.roster.types
    assert more.start is not None
    fleets = [more.setup.fleet, Session.resuming(folder).setup.fleet]
    for fleet in fleets:
        assert fleet is not None
        dealt = {c: name for name, x in told.items() for c in x["clients"]}
        assert fleet.of == dealt
