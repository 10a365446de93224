"""How many clients a run trains at once: by rule or measured, written down, halved if it must."""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import Flexlora, caller
from federation.odd_rules import short_of
from flexlora.errors import RunError
from flexlora.federation import Setup, at_once, engine, foreseen, place, prepare, resume, run
from flexlora.federation.observers import Silent
from flexlora.models import AdaptedModel, load_model
from flexlora.rules import RULES, make_rule
from flexlora.runs.events import Event, Failed, Halved, Lowered, Replied
from flexlora.runs.run_directory import Run
from flexlora.training import CohortSize
from resealed import reseal
from same_run import assert_same_run
from small import small, write
from stops import StopsAfter

QUICK: dict[str, Any] = {
    "federation": {"rounds": 2, "clients_per_round": 4},
    "evaluation": {"unseen": False},
}


@pytest.fixture
def flexlora(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Flexlora:
    return caller(monkeypatch, capsys)


@pytest.fixture(scope="module")
def setup() -> Setup:
    """For all: they differ in [rule] and [run] alone."""
    return prepare(small(**QUICK))


class Listens(Silent):
    def __init__(self) -> None:
        self.outcomes: Counter[tuple[int, str, type]] = Counter()
        self.halved: list[Halved] = []
        self.reasons: set[str] = set()

    def told(self, event: Event) -> None:
        if isinstance(event, Replied | Failed):
            self.outcomes[event.round, event.client, type(event)] += 1
        if isinstance(event, Failed):
            self.reasons.add(event.reason)
        if isinstance(event, Halved):
            self.halved.append(event)


def test_what_is_measured_is_written_down_and_changes_no_bit(setup: Setup, tmp_path: Path) -> None:
    config = small(**QUICK, run={"clients_at_once": "measured"})
    measured = run(config, tmp_path / "measured", setup=setup)
    written = Run.open(measured.folder).resolved
    clients, tried = written["clients_at_once"], written["clients_at_once_tried"]
    assert [x["clients"] for x in tried] == [1, 2, 4][: len(tried)]
    assert clients in [x["clients"] for x in tried]
    assert tried[0]["speed"] == 1.0
    assert all(x.keys() <= {"clients", "speed", "peak_bytes"} for x in tried)
    # The same number, asked for: the trial has left nothing.
    config = small(**QUICK, run={"clients_at_once": clients})
    told = run(config, tmp_path / "told", setup=prepare(config))
    assert_same_run(measured.folder, told.folder)
    assert Run.open(told.folder).resolved["clients_at_once_tried"] == []


def test_a_resume_reads_the_number_and_does_not_measure(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(**QUICK, run={"clients_at_once": "measured"})
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "r", setup=setup, observer=StopsAfter(1))
    file = tmp_path / "r" / "resolved.toml"
    was = tomllib.loads(file.read_text())["clients_at_once"]
    file.write_text(file.read_text().replace(f"clients_at_once = {was}\n", "clients_at_once = 3\n"))
    reseal(tmp_path / "r")

    def never(*_: object, **__: object) -> CohortSize:
        pytest.fail("measured anew")

    engines = []
    make = engine.make_engine

    def seen(*arguments: Any, **options: Any) -> Any:
        engines.append(make(*arguments, **options))
        return engines[-1]

    monkeypatch.setattr(at_once, "choose_cohort_size", never)
    monkeypatch.setattr(place, "make_engine", seen)
    resume(tmp_path / "r")
    assert [engine.cohort for engine in engines] == [3]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("clients_at_once = 0", "clients_at_once is 0, expected 1 or more"),
        ('clients_at_once = "a"', "clients_at_once is 'a', expected a whole number"),
        ("clients_at_once = 2.0", "clients_at_once is 2.0, expected a whole number"),
        ("", "clients_at_once is missing"),
    ],
)
def test_a_number_that_is_none_is_a_damaged_file(tmp_path: Path, damage: str, reason: str) -> None:
    made = Run.create(small(**QUICK), tmp_path / "r")
    (tmp_path / "r" / "resolved.toml").write_text(damage)
    reseal(tmp_path / "r")
    with pytest.raises(RunError) as said:
        at_once.read(made)
    cure = "restore it, or start a new run"
    file = tmp_path / "r" / "resolved.toml"
    assert str(said.value) == f"{file} is missing or damaged ({reason}); {cure}"


def test_it_is_measured_once_for_a_setup_and_what_it_depends_on(setup: Setup) -> None:
    threads = torch.get_num_threads()
    plain, origin = make_rule("flexlora"), make_rule("flexlora-increment")
    auto = prepare(small(**QUICK, run={"clients_at_once": "measured"}), setup)
    first = at_once.choose(auto, plain)
    assert at_once.choose(auto, plain) is first
    assert at_once.choose(auto, make_rule("hetlora")) is first
    assert at_once.choose(auto, origin) is not first
    assert at_once.choose(auto, make_rule("fedit")) is not first  # All at the lowest rank.
    # Another budget is another question.
    config = small(**QUICK, run={"clients_at_once": "measured", "memory_gb": 1e-9})
    little = prepare(config, setup)
    assert at_once.choose(little, plain).clients == 1
    assert at_once.choose(auto, plain) is first
    # Another cohort, and other threads, too.
    fewer = {**QUICK, "federation": {"rounds": 2, "clients_per_round": 2}}
    config = small(**fewer, run={"clients_at_once": "measured"})
    assert at_once.choose(prepare(config, setup), plain) is not first
    config = small(**QUICK, run={"clients_at_once": "measured", "threads": 2})
    assert at_once.choose(replace(auto, config=config), plain) is not first
    assert at_once.choose(setup, plain) == CohortSize(2, ())
    assert torch.get_num_threads() == threads


# Whatever may be another one in a moment: who else computes, and what else is in memory.
MOMENTS = (
    "time.perf_counter",
    "psutil.Process.memory_info",
    "flexlora.federation.at_once.free_bytes",
    "flexlora.federation.at_once.choose_cohort_size",
)


def test_auto_is_the_same_number_each_time_and_nothing_is_tried(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> int:
        pytest.fail("what a moment gives decided")

    auto = prepare(small(**QUICK, run={"clients_at_once": "auto"}), setup)
    rules = [make_rule(name) for name in sorted(RULES)]
    with monkeypatch.context() as patched:
        for moment in MOMENTS:
            patched.setattr(moment, never)
        chosen = [at_once.choose(auto, rule) for rule in rules]
        assert [at_once.choose(auto, rule) for rule in rules] == chosen
    assert {size.tried for size in chosen} == {()}
    assert {size.clients for size in chosen} == {4}
    one, other = (run(auto.config, tmp_path / name, setup=auto).folder for name in "ab")
    assert_same_run(one, other)
    assert {Run.open(x).resolved["clients_at_once"] for x in (one, other)} == {4}


def test_auto_follows_from_shapes_memory_and_config(setup: Setup) -> None:
    def auto(rule: str = "flexlora", **tables: dict[str, Any]) -> int:
        given = {**QUICK, **tables}
        given["run"] = {"clients_at_once": "auto", **given.get("run", {})}
        return at_once.choose(prepare(small(**given), setup), make_rule(rule)).clients

    assert auto() == 4
    assert auto(federation={"rounds": 2, "clients_per_round": 3}) == 3
    # Each of two workers has two of four to train.
    assert auto(run={"workers": 2}) == 2
    load = at_once.load_of(setup, make_rule("flexlora"))
    for fits, wanted in ((1, 1), (2, 2), (3, 2), (4, 4)):
        takes = foreseen.cohort_peak(setup, make_rule("flexlora"), fits) or 0.0
        assert auto(run={"memory_gb": 1.0001 * takes / 1e9}) == wanted
    two = {"workers": 2, "memory_gb": 2.0002 * load.peak_bytes / 1e9}
    assert auto(run=two) == 1  # They share it.
    assert auto(run={"memory_gb": 1e-9}) == auto(run={"memory_gb": 1e-12}) == 1


def test_a_load_is_that_of_the_longest_and_widest(setup: Setup) -> None:
    load = at_once.load_of(setup, make_rule("flexlora-increment"))
    clients = [[len(x.prompt) + len(x.response) for x in c] for c in setup.examples.train.values()]
    assert load.heaviest == max(sum(sorted(lengths)[-2:]) for lengths in clients)
    batches = sum(-(-len(lengths) // 2) for lengths in clients)
    assert load.tokens == pytest.approx(sum(map(sum, clients)) / batches)
    assert load.adapter == 4 * sum(x.m + x.n for x in setup.model.layers)
    assert load.origin
    assert at_once.load_of(setup, make_rule("fedit")).adapter == load.adapter // 2  # The lowest.
    every = AdaptedModel(load_model("tiny"))
    assert load.width == sum(x.m + x.n for x in every.layers) > load.adapter // 4


def test_little_memory_is_one_at_a_time(
    flexlora: Flexlora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []  # Not of this process, which goes on after the test.
    monkeypatch.setattr(engine, "return_what_is_freed", lambda: asked.append(True))
    config = write(small(**QUICK, run={"clients_at_once": "measured"}), tmp_path / "c.toml")
    done = flexlora("run", config, "--set", "run.memory_gb=1e-9", "--out", tmp_path / "r")
    assert done.code == 0, done.err
    written = Run.open(tmp_path / "r").resolved
    if "peak_bytes" not in written["clients_at_once_tried"][0]:
        pytest.skip("this system does not tell the peak of a process")
    assert written["clients_at_once"] == 1
    assert [x["clients"] for x in written["clients_at_once_tried"]] == [1]
    resume(tmp_path / "r")
    assert asked == [True, True]
    run(small(**QUICK), tmp_path / "plenty")
    assert asked == [True, True]


# --- out of memory in spite of it ----------------------------------------------------------------

FOUR: dict[str, Any] = {**QUICK, "run": {"clients_at_once": 4}}
HALVED = Halved(1, 2)
SENTENCE = (
    "out of memory in round 1: 2 clients train at once from here on; the same config no longer "
    "gives the same bits"
)


def test_out_of_memory_halves_the_number_for_good(
    flexlora: Flexlora, setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of rank 4 and two of rank 2, with room for 8 ranks."""
    monkeypatch.setattr(AdaptedModel, "start", short_of(8))
    listens = Listens()
    result = run(small(**FOUR), tmp_path / "r", setup=setup, observer=listens)
    made = Run.open(result.folder)
    assert made.events(Halved) == listens.halved == [HALVED]
    (line,) = [x for x in made.read_events() if x["event"] == "clients_at_once_halved"]
    assert line["clients"] == 2
    clients = setup.examples.train
    assert listens.outcomes == {(r, client, Replied): 1 for r in (1, 2) for client in clients}
    for record in made.read_metrics():
        assert record["clients"] == sorted(setup.examples.train)
        assert record["examples"] == sum(map(len, setup.examples.train.values()))
        assert record["failures"] == 0
    assert made.resolved["clients_at_once"] == 4
    assert at_once.read(made) == 2
    # What was trained is what two at once train.
    config = small(**QUICK, run={"clients_at_once": 2})
    two = Run.open(run(config, tmp_path / "two", setup=setup).folder)
    for one, other in zip(made.read_metrics(), two.read_metrics(), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)

    done = flexlora("run", write(small(**FOUR), tmp_path / "c.toml"), "--out", tmp_path / "p")
    assert done.code == 0, done.err
    assert done.out.count(SENTENCE) == 1


def test_a_resumed_run_goes_on_with_what_was_left(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdaptedModel, "start", short_of(8))
    with pytest.raises(KeyboardInterrupt):
        run(small(**FOUR), tmp_path / "r", setup=setup, observer=StopsAfter(1))
    assert at_once.read(Run.open(tmp_path / "r")) == 2
    listens = Listens()
    resume(tmp_path / "r", observer=listens)
    # With four it would have run out of memory again.
    assert Run.open(tmp_path / "r").events(Halved) == [HALVED]
    assert listens.halved == []
    whole = run(small(**FOUR), tmp_path / "whole", setup=setup)
    assert_same_run(tmp_path / "r", whole.folder)


def test_a_client_without_room_of_its_own_trains_at_half_its_rank_from_then_on(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdaptedModel, "start", short_of(3))
    listens = Listens()
    run(small(**FOUR), tmp_path / "r", setup=setup, observer=listens)
    made = Run.open(tmp_path / "r")
    low = sorted(client for client in setup.examples.train if setup.roster.types[client] == "low")
    assert 0 < len(low) < 4
    assert made.events(Halved) == [HALVED, Halved(1, 1)]
    for record in made.read_metrics():
        assert len(record["clients"]) == 4
        assert record["failures"] == 0
    assert set(listens.outcomes.values()) == {1}
    assert len(listens.outcomes) == 8
    lowered = made.events(Lowered)
    assert {x.client for x in lowered} == set(setup.examples.train) - set(low)
    assert {(x.round, x.before, x.after) for x in lowered} == {(1, "4", "2")}
    assert all("DefaultCPUAllocator: can't allocate memory" in x.reason for x in lowered)


def test_a_measurement_without_room_for_one_leaves_it_to_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdaptedModel, "start", short_of(3))
    config = small(**QUICK, run={"clients_at_once": "measured"})
    run(config, tmp_path / "r", setup=prepare(config))
    made = Run.open(tmp_path / "r")
    assert made.resolved["clients_at_once"] == 1
    assert [record["failures"] for record in made.read_metrics()] == [0, 0]


def test_where_memory_is_scarce_the_planners_model_decides(setup: Setup) -> None:
    """One truth: what a plan and a dry run tell of a pass is what a cohort is held to."""
    rule = make_rule("flexlora")
    load = at_once.load_of(setup, rule)
    four, two = (foreseen.cohort_peak(setup, rule, clients) for clients in (4, 2))
    assert four is not None
    assert two is not None
    asked = {round(four) + 1: 4, round(four) - 1: 2, round(two) - 1: 1, 10**12: 4}
    for budget, clients in asked.items():
        assert at_once._sharing(setup, rule, load, 4, budget) == clients
