"""A run over a network is the run in one process: the same loop, the same bits, the same folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from flexlora.config.config import Config
from flexlora.errors import ConfigError, RoundError
from flexlora.federation.ground import Ground
from flexlora.federation.session import Session
from flexlora.flower.chunks import SIZE
from flexlora.flower.client_file import parse_client
from flexlora.flower.described import DESCRIBE
from flexlora.flower.network import Network
from flexlora.flower.networked import require_networked
from flexlora.flower.packets import Packet, packed, read_header, unpacked
from flexlora.flower.told import NOT_HELD, examples_of, names_of
from flexlora.flower.trainer import Trainer
from flexlora.rules import RULES
from flexlora.runs.events import Event, Failed, Lowered, Noted, RoundBegun, RoundEnded, Spare
from flexlora.runs.run_directory import Run
from flexlora.training import Visit, train_cohort
from flower.links import NORTH, Clock, FakeLink
from flower.states import assert_same_state
from flower.trainers import client_tables, networked

pytestmark = pytest.mark.whole

RANKS = (1, 2, 8)
NONE = {"on_clients": "off", "every": 0, "decide_by": "server", "unseen": False}
WHOLE = (24, 40, 64)  # A round's stack is then as large as all of Δ.


@pytest.fixture(scope="module")
def names() -> list[str]:
    return sorted(Ground.of(networked()).examples.train)


def through(trainer: Trainer) -> Callable[[Packet], Packet]:
    def answer(packet: Packet) -> Packet:
        header, body = packed(packet)
        found, back = trainer.answer(header, lambda: body)
        return unpacked(read_header(found), back)

    return answer


def linked(
    names: list[str],
    folder: Path,
    ranks: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    chunk: int = SIZE,
) -> FakeLink:
    """A node for each, whose trainer is in this process and is asked once for each message."""
    link = FakeLink()
    for place, name in enumerate(names):
        tables = client_tables(name, folder, rank=ranks[name], labels=True)
        tables["data"] |= data or {}
        trainer = Trainer(parse_client(tables), folder / name, chunk=chunk)
        link.answers[100 - place] = _once(through(trainer))
    return link


def _once(answer: Callable[[Packet], Packet]) -> Callable[[Packet], Packet]:
    given: dict[str, Packet] = {}

    def found(packet: Packet) -> Packet:
        if packet.address.ask not in given:
            given[packet.address.ask] = answer(packet)
        return given[packet.address.ask]

    return found


def network(link: FakeLink, clients: Any = 3, run: str = "a1", chunk: int = SIZE) -> Network:
    clock, time = Clock(), 60.0
    return Network(
        link, run, clients, wait=time, deadline=time, chunk=chunk, clock=clock, sleep=clock.sleep
    )


def asked(names: list[str], ranks: tuple[int, ...], **tables: Mapping[str, Any]) -> Config:
    return networked(
        clients={"ranks": dict(zip(names, ranks, strict=True)), "mix": "uniform", "types": {}},
        **tables,
    )


def both(config: Config, names: list[str], folder: Path) -> tuple[Run, Run]:
    """The same config played over a network, and in one process."""
    Session.of(config).play(folder / "here")
    link = linked(names, folder / "clients", config.clients.ranks)
    Session.of(config, place=network(link)).play(folder / "there")
    return Run.open(folder / "there"), Run.open(folder / "here")


@pytest.mark.parametrize(
    ("rule", "ranks"),
    [("flexlora", RANKS), ("flora", WHOLE), ("fedsa", RANKS)],
)
def test_it_ends_at_the_bits_of_one_process(
    rule: str, ranks: tuple[int, ...], names: list[str], tmp_path: Path
) -> None:
    """Of flora, where Δ is small enough to go whole each round."""
    there, here = both(asked(names, ranks, rule={"name": rule}), names, tmp_path)
    assert_same_state(there.folder, here.folder)
    for mine, wanted in zip(there.records(), here.records(), strict=True):
        assert mine.train_loss == wanted.train_loss
        assert (mine.bytes_down, mine.bytes_up) == (wanted.bytes_down, wanted.bytes_up)
        assert mine.on_clients == wanted.on_clients
    unseen, wanted_unseen = (run.read_results() for run in (there, here))
    assert unseen is not None
    assert wanted_unseen is not None
    assert [row["unseen"] for row in unseen["rows"]] == [
        row["unseen"] for row in wanted_unseen["rows"]
    ]
    assert NOT_HELD in there.data["notes"]
    assert not there.trained().whole
    remembered = [(tmp_path / "clients" / name / "memory").exists() for name in names]
    assert remembered == [rule == "fedsa"] * 3
    assert not (there.folder / "memory").exists()


def test_a_rehearsal_with_faults_is_the_one_in_one_process(
    names: list[str], tmp_path: Path
) -> None:
    """Quorum, attempts and rests too: the loop is the same, and so are the draws."""
    faults = {"drop": 0.2, "corrupt": 0.2, "duplicate": 0.2, "crash": 0.1, "seed": 5}
    asked_for = {"rounds": 3, "min_clients": 2, "attempts": 9, "rest_after": 2, "rest_rounds": 1}
    config = asked(names, RANKS, faults=faults, federation=asked_for, evaluation=NONE)
    there, here = both(config, names, tmp_path)
    assert_same_state(there.folder, here.folder)
    assert any(record.attempts > 1 for record in there.records())
    kinds = {event.kind for event in there.events(Failed)}
    assert {"train", "quarantine", "stray"} <= kinds
    for mine, wanted in zip(there.records(), here.records(), strict=True):
        assert (mine.missing, mine.resting) == (wanted.missing, wanted.resting)
        assert mine.train_loss == wanted.train_loss
    assert config.faults.words() in [event.text for event in there.events(Noted)]


def test_a_round_closes_when_enough_have_come_and_the_slow_one_is_late(
    names: list[str], tmp_path: Path
) -> None:
    more = {"rounds": 2, "clients_per_round": 2, "over_sample": 1.5, "rest_after": 1}
    config = asked(names, RANKS, evaluation=NONE, federation=more)
    link = linked(names, tmp_path / "clients", config.clients.ranks)
    quick = link.answers[100]
    link.answers[100] = lambda packet: quick(packet) if packet.kind == DESCRIBE else None
    place = network(link)
    Session.of(config, place=place).play(tmp_path / "run")
    opened = Run.open(tmp_path / "run")
    for record in opened.records():
        assert record.clients == tuple(names[1:])
        assert (record.spare, record.failures, record.resting) == ((names[0],), 0, ())
    assert [event.client for event in opened.events(Spare)] == [names[0]] * 2
    assert opened.events(Failed) == []


def test_what_clients_say_of_themselves_counts_up_to_a_stated_limit() -> None:
    """Nobody who claims 10¹⁸ takes over an average, neither of updates nor of scores."""
    config = networked(federation={"most_examples": 50})
    model = Ground.of(config).model
    modest = replace(NORTH, name="a", fitting=40, held_out=30, tokens=90)
    greedy = replace(NORTH, name="b", fitting=10**18, held_out=10**18, tokens=10**18)
    told = {"a": modest, "b": greedy}
    found = examples_of(config, model, date(2026, 11, 28), told)
    known = found.known(50, config.data.max_tokens)
    assert known.train == {"a": 40, "b": 50}
    assert known.held_out == {"a": 30, "b": 50}
    assert known.tokens == {"a": 90, "b": 50 * config.data.max_tokens}
    (note,) = [note for note in found.notes if "most_examples" in note]
    assert note.startswith("client b says that it has 1,000,000,000,000,000,000 examples")
    assert "50 count at most" in note


@pytest.mark.soak
@pytest.mark.parametrize(
    "tables",
    [
        *({"rule": {"name": rule}} for rule in sorted(RULES)),
        {"training": {"host": "slora", "sparse_rounds": 1}},
        {"federation": {"mode": "local"}},
        {"screens": {"norm_clip": {"factor": 1.0}}},
        {"federation": {"wire": "int8"}},
    ],
    ids=str,
)
def test_every_rule_host_and_screen_ends_at_the_bits_of_one_process(
    tables: dict[str, Any], names: list[str], tmp_path: Path
) -> None:
    """But for those whose Δ goes in steps, which `flora` and `florist` alone do here."""
    there, here = both(asked(names, RANKS, evaluation=NONE, **tables), names, tmp_path)
    assert [record.failures for record in there.records()] == [0, 0, 0]
    if tables.get("rule", {}).get("name") not in ("flora", "florist"):
        assert_same_state(there.folder, here.folder)


def test_in_chunks_it_ends_at_the_bits_of_one_process(names: list[str], tmp_path: Path) -> None:
    """Adapters and Δ, down and up, each several chunks; none of them stays behind."""
    chunk, two = 4000, {"rounds": 2}
    config = asked(names, WHOLE, evaluation=NONE, rule={"name": "flora"}, federation=two)
    link = linked(names, tmp_path / "clients", config.clients.ranks, chunk=chunk)
    place = network(link, chunk=chunk)
    Session.of(config, place=place).play(tmp_path / "there")
    Session.of(config).play(tmp_path / "here")
    there, here = Run.open(tmp_path / "there"), Run.open(tmp_path / "here")
    assert_same_state(there.folder, here.folder)
    assert [record.failures for record in there.records()] == [0, 0]
    assert {"put", "fetch"} <= {packet.kind for _, packet in link.sent}
    assert max(link.bytes_sent) <= chunk
    assert not (there.folder / "wire").exists()


def test_delta_that_comes_in_steps_differs_by_rounding_alone(
    names: list[str], tmp_path: Path
) -> None:
    there, here = both(asked(names, RANKS, rule={"name": "flora"}), names, tmp_path)
    mine, wanted = there.load_checkpoint("last"), here.load_checkpoint("last")
    assert mine is not None
    assert wanted is not None
    for name in wanted[0]:
        if name.endswith("|left"):
            right = name.removesuffix("left") + "right"
            ours, theirs = (x[0][name] @ x[0][right] for x in (mine, wanted))
            assert (ours - theirs).norm() <= 1e-3 * theirs.norm()
    downs = [record.bytes_down for record in there.records()]
    assert downs == [record.bytes_down for record in here.records()]


class Stop(Exception):
    """Somebody pulls the plug."""


class StopsAfter:
    def __init__(self, round: int) -> None:
        self.round = round

    def told(self, event: Event) -> None:
        if isinstance(event, RoundEnded) and event.record.round == self.round:
            raise Stop


def test_a_run_goes_on_from_its_folder_and_ends_at_the_same_bits(
    names: list[str], tmp_path: Path
) -> None:
    """With every client's trainer started anew: what is personal is in its folder."""
    config = asked(names, RANKS, rule={"name": "fedsa"})
    Session.of(config).play(tmp_path / "here")
    first = network(linked(names, tmp_path / "clients", config.clients.ranks))
    with pytest.raises(Stop):
        Session.of(config, place=first).play(tmp_path / "there", observer=StopsAfter(2))
    run = Run.open(tmp_path / "there")
    assert run.resolved["network"] == "a1"
    again = network(linked(names, tmp_path / "clients", config.clients.ranks), names_of(run.data))
    Session.resuming(run.folder, place=again).play()
    assert_same_state(tmp_path / "there", tmp_path / "here")


def test_ranks_come_from_clients_where_the_config_gives_none(
    names: list[str], tmp_path: Path
) -> None:
    config = networked(federation={"rounds": 1})
    link = linked(names, tmp_path / "clients", dict(zip(names, RANKS, strict=True)))
    Session.of(config, place=network(link)).play(tmp_path / "run")
    assert Run.open(tmp_path / "run").resolved["clients"] == {f"rank {r}": 1 for r in RANKS}


def test_a_client_that_goes_is_a_failure_and_back_in_the_next_round(
    names: list[str], tmp_path: Path
) -> None:
    config = asked(names, RANKS, evaluation=NONE)
    link = linked(names, tmp_path / "clients", config.clients.ranks)
    gone = link.answers[100]

    class Leaves:
        def told(self, event: Event) -> None:
            if isinstance(event, RoundBegun) and event.round == 2:
                del link.answers[100]
            if isinstance(event, RoundEnded) and event.record.round == 2:
                link.answers[7] = gone

    Session.of(config, place=network(link)).play(tmp_path / "run", observer=Leaves())
    records = Run.open(tmp_path / "run").records()
    assert [len(record.clients) for record in records] == [3, 2, 3]
    assert [record.failures for record in records] == [0, 1, 0]


def test_a_client_out_of_memory_is_sent_a_smaller_job_in_the_same_round(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts in that round, keeps the lower rank, and all ends at the bits of one process."""

    def modest(model: Any, visits: Sequence[Visit], *rest: Any, **more: Any) -> Any:
        if max(max(visit.adapter.ranks.values()) for visit in visits) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
        return train_cohort(model, visits, *rest, **more)

    config = asked(names, RANKS, evaluation=NONE, federation={"rounds": 2})
    monkeypatch.setattr("flexlora.engines.in_process.train_cohort", modest)
    Session.of(config).play(tmp_path / "here")
    link = linked(names, tmp_path / "clients", config.clients.ranks)
    Session.of(config, place=network(link)).play(tmp_path / "there")
    there, here = Run.open(tmp_path / "there"), Run.open(tmp_path / "here")
    assert_same_state(there.folder, here.folder)
    for record in there.records():
        assert (record.clients, record.failures) == (tuple(names), 0)
    lowered = there.events(Lowered)
    assert lowered == here.events(Lowered)
    assert [(x.round, x.client, x.before, x.after) for x in lowered] == [
        (1, names[2], "8", "4"),
        (1, names[2], "4", "2"),
    ]
    jobs = [
        (packet.address.round, packet.address.ask, len(packet.parts["payload"]))
        for node, packet in link.sent
        if node == 98 and packet.kind == "train"
    ]
    assert [round for round, _, _ in jobs] == [1, 1, 1, 2]
    assert len({ask for _, ask, _ in jobs}) == 4
    eight, four, two, after = (size for _, _, size in jobs)
    assert eight > four > two == after


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"federation": {"mode": "centralised"}}, "over a network nobody has all examples"),
        ({"evaluation": {"validation_examples": 5}}, "set it to 0, evaluation.on_clients to"),
        ({"evaluation": {"validation_clients": 1}}, "the server reads no client's examples"),
        (
            {"data": {"duplicates": "refuse"}, "evaluation": {"unseen": True}},
            "the server cannot see whether unseen examples are trained on",
        ),
        ({"rule": {"name": "mine.py:Mine"}}, "no client runs code"),
        ({"evaluation": {"metrics": ["mine.py:f"]}}, "no client runs code"),
    ],
)
def test_what_cannot_be_had_over_a_network_is_told(tables: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        require_networked(networked(**tables))


def test_too_few_clients_are_told_with_those_that_came(names: list[str], tmp_path: Path) -> None:
    link = linked(names[:2], tmp_path, dict(zip(names, RANKS, strict=True)))
    session = Session.of(networked(), place=network(link))
    with pytest.raises(RoundError, match=rf"2 of 3 clients came \({names[0]}, .*within 60 s"):
        _ = session.setup
