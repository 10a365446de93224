"""Whole runs with worker processes: the bits of one process, whatever is killed, and no orphans."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.odd_rules import Scarce
from flexlora.engines.cohorts import ignore_halved
from flexlora.engines.in_process import InProcess
from flexlora.engines.workers import Workers
from flexlora.errors import RunError
from flexlora.federation import Setup, prepare, resume, run
from flexlora.federation.engine import make_engine, threads_of, workers_of
from flexlora.federation.observers import Silent
from flexlora.rules import RULES, make_rule
from flexlora.rules.flexlora import FlexLoRA
from flexlora.runs.events import Event, Failed, Halved, Lowered, Replied, RoundEnded
from flexlora.runs.run_directory import Run
from same_run import assert_same_run
from small import small, train_job, write

RUN: dict[str, Any] = {
    "rule": {"name": "flexlora-increment"},
    "data": {"train_tasks": 7},
    "federation": {"rounds": 2, "clients_per_round": 7},
    "evaluation": {"on_clients": "tuned", "clients": 3, "own_examples": 0},
}
TWO = {"run": {"workers": 2}}
PROC = Path("/proc")

linux = pytest.mark.skipif(not PROC.is_dir(), reason="children are found in /proc")


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(small(**RUN))


@pytest.fixture(scope="module")
def alone(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process, undisturbed."""
    return run(small(**RUN), tmp_path_factory.mktemp("engine") / "alone", setup=setup).folder


def children() -> set[int]:
    return {process.pid or 0 for process in multiprocessing.active_children()}


class Kills(Silent):
    """At the first reply kills one worker and stops the other one as Ctrl-C would."""

    def __init__(self) -> None:
        self.first: set[int] = set()
        self.last: set[int] = set()
        self.killed: int | None = None

    def told(self, event: Event) -> None:
        assert not isinstance(event, Failed)
        if isinstance(event, RoundEnded):
            self.last = children()
        if isinstance(event, Replied) and self.killed is None:
            self.first = children()
            self.killed, other = sorted(self.first)
            os.kill(self.killed, signal.SIGKILL)
            os.kill(other, signal.SIGINT)  # The terminal sends it to all; this process decides.


def descendants(parent: int) -> set[int]:
    """Its children and theirs: one of its children begins the workers."""
    found: set[int] = set()
    for task in (PROC / str(parent) / "task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found |= {child, *descendants(child)}
    return found


def alive(process: int) -> bool:
    """A zombie is dead: who has to bury it is not ours to say."""
    try:
        stat = (PROC / str(process) / "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def until(what: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300  # Of a machine that is busy with others.
    while not what():
        assert time.monotonic() < end, "it never came"
        assert process.poll() in (None, -signal.SIGKILL), "the run ended too early"
        time.sleep(0.005)


# A run of a rule under the name of the true one.
ENDLESS = """
from federation.odd_rules import Endless
from flexlora.cli.main import main
from flexlora.rules import RULES

RULES["flexlora-increment"] = Endless  # Workers import this script.

if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(not PROC.is_dir(), reason="children are found in /proc")
@pytest.mark.whole
def test_whatever_is_killed_no_worker_is_left_and_the_bits_are_those_of_one_process(
    alone: Path, tmp_path: Path
) -> None:
    """First a run, when a worker is in the middle of a client of round 2 for ever; then, when that
    run is resumed, a worker in the middle of the round.
    """
    (script := tmp_path / "endless.py").write_text(ENDLESS)
    (begun := tmp_path / "begun").mkdir()
    config = write(small(**RUN, **TWO), tmp_path / "c.toml")
    command = [sys.executable, script, "run", config, "--out", tmp_path / "r", "--quiet"]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, paths))
    environment = {"OMP_NUM_THREADS": "1", "BEGUN": str(begun), "PYTHONPATH": path}
    with subprocess.Popen(list(map(str, command)), env={**os.environ, **environment}) as process:
        try:  # Its clients never end, and so would whoever waits for it.
            until(lambda: len(list(begun.iterdir())) >= 10, process)
            orphans = descendants(process.pid)
        finally:
            process.kill()
            process.wait()
    assert len(orphans) >= 3
    try:
        until(lambda: not any(map(alive, orphans)), process)
    finally:
        for orphan in filter(alive, orphans):
            os.kill(orphan, signal.SIGKILL)
    assert Run.open(tmp_path / "r").checkpoints() == [1]
    kills = Kills()
    resume(tmp_path / "r", observer=kills)
    assert (len(kills.first), len(kills.last)) == (2, 2)
    assert kills.first - kills.last == {kills.killed}
    assert children() == set()
    assert_same_run(tmp_path / "r", alone)
    assert Run.open(tmp_path / "r").resolved["workers"] == 2


class Stops(Silent):
    """Ctrl-C at the first outcome of round 3, when others are on their way."""

    def __init__(self) -> None:
        self.workers: set[int] = set()

    def told(self, event: Event) -> None:
        if isinstance(event, Replied | Failed) and event.round == 3:
            self.workers = children()
            raise KeyboardInterrupt


def test_workers_out_of_memory_halve_for_good_and_end_with_their_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for three ranks, clients of rank 2 train alone, those of rank 4 at half of it."""
    monkeypatch.setitem(RULES, "scarce", Scarce)
    config = small(
        rule={"name": "scarce"},
        federation={"rounds": 3, "clients_per_round": 4},
        evaluation={"unseen": False, "on_clients": "off"},
        run={"workers": 2, "clients_at_once": 4},
    )
    setup = prepare(config)
    stops = Stops()
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "r", setup=setup, observer=stops)
    assert len(stops.workers) == 2
    assert children() == set()
    made = Run.open(tmp_path / "r")
    high = {client for client in setup.examples.train if setup.roster.types[client] == "high"}
    assert 0 < len(high) < 4
    halved = made.events(Halved)
    assert {x.round for x in halved} == {1}
    assert [x.clients for x in halved] in ([1], [2, 1])
    assert made.events(Failed) == []
    lowered = made.events(Lowered)
    assert {(x.round, x.client, x.after) for x in lowered} == {(1, x, "2") for x in high}
    assert all("DefaultCPUAllocator: can't allocate memory" in x.reason for x in lowered)
    assert len(made.read_metrics()) == 2
    for record in made.read_metrics():
        assert record["examples"] == sum(
            len(setup.examples.train[client]) for client in record["clients"]
        )
        assert record["clients"] == sorted(setup.examples.train)
        assert record["failures"] == 0


class Unreadable(FlexLoRA):  # type: ignore[misc]
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def test_a_worker_that_cannot_begin_is_no_clients_doing(setup: Setup) -> None:
    """As it is in a script without `if __name__ == "__main__"`, which its workers run again."""
    config = small(**RUN, **TWO)
    engine = make_engine(prepare(config, setup), Unreadable(), cohort=4, halved=ignore_halved)
    jobs = [train_job(client) for client in sorted(setup.examples.train)[:1]]
    with closing(engine), pytest.raises(RunError, match=r"before it began; in a script, put what"):
        list(engine.exchange(jobs))


def test_a_worker_that_imports_a_script_begins_no_run_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RunError, match="this process is a worker and imports the script anew"):
        run(small(**RUN, **TWO), tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


# --- which engine --------------------------------------------------------------------------------


def test_the_config_says_which_engine(setup: Setup) -> None:
    rule = make_rule("flexlora")

    def engine(**keys: Any) -> InProcess | Workers:
        made = prepare(small(**RUN, run=keys), setup)
        return make_engine(made, rule, cohort=3, halved=ignore_halved)

    for keys, kind in (({}, InProcess), ({"workers": 1}, InProcess), ({"workers": 2}, Workers)):
        made = engine(**keys)
        assert isinstance(made, kind)
        assert made.cohort == 3
        made.close()


def test_workers_share_the_threads_that_are_there(setup: Setup) -> None:
    five = replace(setup, threads=5)
    for workers, wanted in (("auto", 5), (1, 5), (2, 2), (9, 1)):
        config = small(**RUN, run={"workers": workers, "threads": None})
        assert threads_of(replace(five, config=config)) == wanted
    config = small(**RUN, run={"workers": 2, "threads": 3})
    assert threads_of(replace(five, config=config)) == 3
    assert workers_of(setup) == 1
