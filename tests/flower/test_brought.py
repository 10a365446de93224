"""Clients bring devices: the server decides ranks by its own policy, and trusts no figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flexlora.allocation.devices import Device
from flexlora.config.config import Config
from flexlora.errors import ConfigError, RoundError, WireError
from flexlora.federation.ground import Ground
from flexlora.federation.session import Session
from flexlora.flower.brought import served, why_unserved
from flexlora.flower.checking_work import work_findings
from flexlora.flower.client_file import parse_client
from flexlora.flower.described import DESCRIBE, Described
from flexlora.flower.network import Network
from flexlora.flower.packets import Packet
from flexlora.flower.profiles import device_facts, device_of, facts_device
from flexlora.flower.told import devices_told, names_of
from flexlora.flower.trainer import Trainer
from flexlora.runs.events import Allotted
from flexlora.runs.run_directory import Run
from flower.links import NORTH, Answer, Clock, FakeLink
from flower.test_network_run import NONE, Stop, StopsAfter, through
from flower.trainers import client_tables, describe, networked

PROFILE = """
[{name}]
memory = "{memory}"
flops = {{float32 = "20 GFLOPS"}}
bandwidth = "2 GB/s"
uplink = "2 Mbit/s"
downlink = "8 Mbit/s"
"""
BOUND: dict[str, Any] = {"clients": {"mix": None, "types": {}, "max_rank": 16}}


@pytest.fixture(scope="module")
def names() -> list[str]:
    return sorted(Ground.of(networked()).examples.train)


def config(rounds: int = 1, **tables: Any) -> Config:
    federation = {"rounds": rounds, **tables.pop("federation", {})}
    return networked(federation=federation, evaluation=NONE, **{**BOUND, **tables})


def profile(folder: Path, memory: str, name: str = "this") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "this.toml").write_text(PROFILE.format(memory=memory, name=name))
    return str(folder / "this.toml")


def linked(names: list[str], folder: Path, memories: list[str]) -> FakeLink:
    link = FakeLink()
    for place, (name, memory) in enumerate(zip(names, memories, strict=True)):
        file = profile(folder / f"p{place}", memory)
        tables = client_tables(name, folder / name, devices=file)
        link.answers[100 + place] = through(Trainer(parse_client(tables), folder / name))
    return link


def network(link: FakeLink, clients: Any = 3, **more: Any) -> Network:
    clock = Clock()
    more |= {"wait": 60.0, "deadline": 60.0, "clock": clock, "sleep": clock.sleep}
    return Network(link, "a1", clients, **more)


def ranks(session: Session) -> dict[str, int]:
    roster = session.setup.roster
    return {c: max(roster.ranks[kind].values()) for c, kind in roster.types.items()}


def test_ranks_follow_from_the_devices_that_clients_bring(names: list[str], tmp_path: Path) -> None:
    """As in process, where a class names each; and the run says who got which and why."""
    link = linked(names, tmp_path, ["14.9 MB", "8 GB", "8 GB"])
    session = Session.of(config(), place=network(link))
    found = ranks(session)
    assert 1 <= found[names[0]] < found[names[1]] == found[names[2]] == 16
    session.play(tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.records()[0].clients == tuple(names)
    assert run.records()[0].simulated is None
    told = run.data["devices"]
    assert told["brought 1"]["clients"] == [names[0]]
    assert told["brought 1"]["why"].startswith("memory; ")
    assert told["brought 2"]["why"].startswith("clients.max_rank 16; ")
    (small,) = [note for note in run.data["notes"] if note.startswith("brought 1, ")]
    assert f"the device of 1 client ({names[0]}): rank {found[names[0]]} by memory" in small
    first, second = run.events(Allotted)
    assert (first.device, first.clients, first.brought) == ("brought 1", (names[0],), True)
    assert (first.ranks, second.ranks) == (str(found[names[0]]), "16")
    assert second.clients == tuple(names[1:])
    assert first.why == told["brought 1"]["why"]
    assert first.words == small


def test_a_deadline_of_the_server_lowers_the_rank_of_a_slow_link() -> None:
    model = Ground.of(networked()).model
    slow = Device(8e9, {"float32": 20e9}, 2e9, 2500.0, 1e6)
    found = []
    for seconds in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        asked = config(federation={"deadline": f"{seconds} s"})
        if why := why_unserved(asked, model, "north", slow, 4):
            assert "longer than federation.deadline" in why
            found.append(0)
        else:
            found.append(served(asked, model, "north", slow, 4)[0])
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, 16)
    assert any(1 < rank < 16 for rank in found)


def test_a_device_that_no_rank_fits_is_refused_and_the_others_go_on(
    names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its operator reads why in the trainer's log, also where the run ends for it."""
    link = linked(names, tmp_path, ["2 MB", "8 GB", "8 GB"])
    session = Session.of(config(federation={"clients_per_round": 2}), place=network(link, 2))
    assert sorted(ranks(session)) == names[1:]
    with pytest.raises(RoundError, match=r"cannot hold tiny: at rank 1 it takes .* more than"):
        _ = Session.of(config(), place=network(link, 3)).setup
    told = [line for line in capsys.readouterr().err.splitlines() if "refuses this client" in line]
    assert len(told) == 1  # The same sentence in both runs.
    assert "cannot hold tiny: at rank 1 it takes" in told[0]


def claiming(answer: Answer, **figures: Any) -> Answer:
    def found(packet: Packet) -> Any:
        told = answer(packet)
        if packet.kind != DESCRIBE or not isinstance(told, Packet):
            return told
        device = {**told.facts["device"], **figures}
        return Packet(told.kind, told.address, {}, {**told.facts, "device": device})

    return found


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"memory": 1e300}, "memory is 1e"),
        ({"memory": -1}, "memory is -1"),
        ({"memory": None}, "memory is nan"),
        ({"memory": "much"}, "memory is 'much'"),
        ({"flops": {}}, "flops is of"),
        ({"flops": {"int4": 1e9}}, "flops is of"),
        ({"flops": {"float32": 0}}, "flops.float32 is 0"),
        ({"availability": 2}, "availability is 2"),
    ],
    ids=str,
)
def test_a_hostile_profile_is_refused(figures: dict[str, Any], told: str) -> None:
    device = {**device_facts(Device(8e9, {"float32": 2e10}, 2e9, 2e6, 1e6)), **figures}
    facts = {**NORTH.to_packet(describe().address).facts, "rank": None, "device": device}
    with pytest.raises(WireError) as error:
        Described.from_packet(Packet("described", describe().address, {}, facts))
    assert told in str(error.value)


def test_a_hostile_profile_ends_no_run(names: list[str], tmp_path: Path) -> None:
    link = linked(names, tmp_path, ["8 GB"] * 3)
    link.answers[100] = claiming(link.answers[100], memory=1e300)
    session = Session.of(config(federation={"clients_per_round": 2}), place=network(link, 2))
    assert sorted(ranks(session)) == names[1:]
    assert any("memory is 1e" in note for note in session.setup.notes), session.setup.notes


def test_a_device_of_any_figures_has_the_highest_rank_at_most(
    names: list[str], tmp_path: Path
) -> None:
    link = linked(names, tmp_path, ["8 GB"] * 3)
    link.answers[100] = claiming(link.answers[100], memory=1e21)
    link.answers[101] = claiming(link.answers[101], uplink=1.0, downlink=1.0)
    found = ranks(Session.of(config(), place=network(link)))
    assert set(found.values()) == {16}


def test_a_rank_that_a_client_tells_is_bounded_by_the_server_s_operator(
    names: list[str], tmp_path: Path
) -> None:
    link = linked(names, tmp_path, ["8 GB"] * 3)
    for node, rank in ((100, 17), (101, 16), (102, 4)):
        link.answers[node] = asking_for(link.answers[node], rank)
    session = Session.of(config(federation={"clients_per_round": 2}), place=network(link, 2))
    assert ranks(session) == {names[1]: 16, names[2]: 4}
    (note,) = [note for note in session.setup.notes if "asks for rank" in note]
    assert f"client {names[0]} asks for rank 17, and clients.max_rank is 16" in note


def asking_for(answer: Answer, rank: int) -> Answer:
    """The same client, which tells a rank instead of its device."""

    def told(packet: Packet) -> Packet | Any:
        found = answer(packet)
        if packet.kind != DESCRIBE:
            return found
        assert isinstance(found, Packet)
        return Packet(found.kind, found.address, {}, {**found.facts, "device": None, "rank": rank})

    return told


def test_a_run_keeps_the_devices_that_it_began_with(names: list[str], tmp_path: Path) -> None:
    link = linked(names, tmp_path / "c", ["14.9 MB", "8 GB", "8 GB"])
    first = Session.of(config(2), place=network(link))
    found = ranks(first)
    with pytest.raises(Stop):
        first.play(tmp_path / "run", observer=StopsAfter(1))
    run = Run.open(tmp_path / "run")
    devices, clients = devices_told(run.data), names_of(run.data)
    others = linked(names, tmp_path / "d", ["9 GB", "2 MB", "8 GB"])
    again = network(others, clients, devices=devices)
    session = Session.resuming(run.folder, place=again)
    assert ranks(session) == found
    session.play()
    assert len(Run.open(run.folder).records()) == 2


def test_what_travels_is_what_ranks_depend_on(tmp_path: Path) -> None:
    client = parse_client(
        {"client": {"name": "a", "devices": profile(tmp_path, "8 GB"), "folder": "f"}}
    )
    device = device_of(client)
    assert device is not None
    assert facts_device(device_facts(device)) == device
    assert "sources" not in device_facts(device)


@pytest.mark.parametrize(
    ("client", "told"),
    [
        ({"rank": 4, "devices": "x.toml"}, "client.rank is 4 and client.devices is 'x.toml'"),
        ({"rank": 4, "device": "T4"}, "client.rank is 4 and client.device is 'T4'"),
        ({"devices": "/nowhere/x.toml"}, "device file /nowhere/x.toml does not exist"),
        ({"device": "T44"}, "device of this client is 'T44'; did you mean"),
        ({"devices": "FILE", "device": "thsi"}, "client.device is 'thsi', which "),
        ({"devices": "TWO"}, "has 2 classes of devices, and none names client a"),
    ],
    ids=str,
)
def test_a_wrong_device_is_told(client: dict[str, Any], told: str, tmp_path: Path) -> None:
    file = Path(profile(tmp_path, "8 GB"))
    two = tmp_path / "two.toml"
    two.write_text(file.read_text() + PROFILE.format(memory="1 GB", name="other"))
    named = {"FILE": str(file), "TWO": str(two)}
    given = {key: named.get(str(value), value) for key, value in client.items()}
    with pytest.raises(ConfigError) as error:
        device_of(parse_client({"client": {"name": "a", **given}}))
    assert told in str(error.value)


def test_the_check_tells_the_rank_of_a_device_or_what_it_lacks(tmp_path: Path) -> None:
    def found(memory: str) -> dict[str, Any]:
        file = profile(tmp_path, memory)
        tables = client_tables("anybody", tmp_path, rows="all", devices=file)
        asked = config(federation={"deadline": "1 h"})
        return {one.what: one for one in work_findings(parse_client(tables), asked)}

    good = found("8 GB")
    assert list(good) == ["data", "model", "device", "memory"]
    assert good["device"].words.startswith("rank 16 by clients.max_rank 16; ")
    assert good["memory"].words.startswith("rank 16 takes ")
    bad = found("2 MB")["device"]
    assert not bad.good
    assert "cannot hold tiny: at rank 1 it takes" in bad.words


def test_a_description_has_a_rank_or_a_device(names: list[str], tmp_path: Path) -> None:
    link = linked(names[:1], tmp_path, ["8 GB"])
    whole = link.answers[100]

    def both(packet: Packet) -> Any:
        told = whole(packet)
        assert isinstance(told, Packet)
        return Packet(told.kind, told.address, {}, {**told.facts, "rank": 4})

    link.answers[100] = both
    with pytest.raises(RoundError, match="both a rank and a device"):
        _ = Session.of(config(), place=network(link, 1)).setup
