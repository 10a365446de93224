"""Several processes: the results of one, whatever dies on the way."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.adapters import Adapter, Delta
from flexlora.config.config import ModelConfig
from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Failure, Outcome, Reply, Train
from flexlora.engines.worker import Equipment, _sendable, pack_delta, unpack_delta
from flexlora.engines.workers import Workers, _again, _Batch
from flexlora.errors import ModelError, RuleError, RunError, TrainingError
from flexlora.evaluation import METRICS, text_metric
from flexlora.evaluation.metric_file import SentMetric
from flexlora.federation import prepare, run
from flexlora.federation.setup import Setup
from flexlora.lowrank import LowRank
from flexlora.rules import Encoded, Memory, Rule, Traits, make_rule
from flexlora.rules.flexlora import FlexLoRA
from flexlora.runs.run_directory import Run
from same_run import MEASURED
from small import first_jobs, small, train_job
from warm import Warm

RULE = make_rule("flexlora")


class Deadly(FlexLoRA):  # type: ignore[misc]
    """Kills the process that trained a client of rank 4."""

    def encode(self, trained: Adapter, sent: Adapter, memory: Memory) -> Encoded:
        if max(trained.ranks.values()) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(trained, sent, memory)


class Broken(FlexLoRA):  # type: ignore[misc]
    def encode(self, trained: Adapter, sent: Adapter, memory: Memory) -> Encoded:
        raise RuntimeError("a fault of ours")


class Ours(FlexLoRA):  # type: ignore[misc]
    """In a worker alone, what is no hook of a rule fails."""

    @property
    def traits(self) -> Traits:  # type: ignore[override]
        if parent_process() is not None:
            raise BrokenPipeError("a fault of ours")
        return FlexLoRA.traits


class Unwritable(FlexLoRA):  # type: ignore[misc]
    """An error of the kind that a pipe gives whose other end is gone."""

    def encode(self, trained: Adapter, sent: Adapter, memory: Memory) -> Encoded:
        raise BrokenPipeError("a fault of ours")


class Refusing(FlexLoRA):  # type: ignore[misc]
    def encode(self, trained: Adapter, sent: Adapter, memory: Memory) -> Encoded:
        raise TrainingError("this client gives nothing")


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(small())


@pytest.fixture(scope="module")
def jobs(setup: Setup) -> list[Train]:
    return first_jobs(setup, RULE)


def workers(
    setup: Setup,
    rule: Rule = RULE,
    count: int = 2,
    cohort: int = 1,
    *,
    model: ModelConfig | None = None,
    metrics: tuple[SentMetric, ...] = (),
) -> Workers:
    equipment = Equipment(
        model or setup.config.model,
        "cpu",
        rule,
        setup.settings.validation,
        threads=1,
        metrics=metrics,
    )
    return Workers(
        [equipment] * count, setup.examples.train, setup.examples.held_out, cohort=cohort
    )


def by_job(outcomes: Iterator[Outcome]) -> dict[str, Outcome]:
    found = list(outcomes)
    assert len({outcome.job for outcome in found}) == len(found)
    return {outcome.job: outcome for outcome in found}


def same(one: Outcome, other: Outcome) -> bool:
    assert isinstance(one, Reply)
    assert isinstance(other, Reply)
    return (one.payload, one.loss, one.tokens, one.score) == (
        other.payload,
        other.loss,
        other.tokens,
        other.score,
    )


def test_two_processes_give_the_bits_of_one_and_a_dead_one_is_replaced(
    setup: Setup, jobs: list[Train]
) -> None:
    jobs = [replace(job, metrics=("loss",)) for job in jobs]
    alone = InProcess(
        setup.model, setup.examples.train, RULE, setup.examples.held_out, setup.settings.validation
    )
    wanted = by_job(alone.exchange(jobs))
    with closing(workers(setup)) as engine:
        found = by_job(engine.exchange(jobs))
        assert all(same(found[job], wanted[job]) for job in wanted)
        first = engine.processes
        assert len(set(first)) == 2
        # Killed between rounds, and in the middle of one.
        os.kill(first[0], signal.SIGKILL)
        arriving = engine.exchange(jobs)
        begun = [next(arriving)]
        os.kill(first[1], signal.SIGKILL)
        again = {x.job: x for x in [*begun, *arriving]}
        assert len(again) == len(jobs)
        assert all(same(again[job], wanted[job]) for job in wanted)
        assert not set(first) & set(engine.processes)
        last = engine.processes
    for process in last:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_client_that_kills_its_worker_is_a_failure_and_no_other(
    setup: Setup, jobs: list[Train]
) -> None:
    rank = {job: set(setup.roster.ranks[setup.roster.types[job.client]].values()) for job in jobs}
    deadly = next(job for job in jobs if rank[job] == {4})
    harmless = next(job for job in jobs if rank[job] == {2})
    with closing(workers(setup, Deadly(), count=1, cohort=2)) as engine:
        found = by_job(engine.exchange([deadly, harmless]))
    assert isinstance(found[harmless.id], Reply)
    assert found[deadly.id] == Failure(
        deadly.id, deadly.client, "its worker process died over it 3 times (exit code -9)"
    )


def test_deaths_are_counted_together_and_alone() -> None:
    """Twice with another client, then alone: three. Always alone: two."""
    pair = _Batch((train_job("a"), train_job("b")))
    again, lost = _again(pair, -9)
    assert ([x.jobs for x in again], lost) == ([pair.jobs], [])
    again, lost = _again(again[0], -9)
    assert ([len(x.jobs) for x in again], lost) == ([1, 1], [])
    for batch, deaths in ((again[0], 3), (replace(again[0], deaths=1), 2)):
        left, (failed,) = _again(batch, -9)
        assert left == []
        assert failed.reason == f"its worker process died over it {deaths} times (exit code -9)"


def test_a_fault_of_ours_is_told(setup: Setup, jobs: list[Train]) -> None:
    with (
        closing(workers(setup, Ours(), count=1)) as engine,
        pytest.raises(RuntimeError, match=r"(?s)a worker process failed:.*a fault of ours"),
    ):
        list(engine.exchange(jobs))


@pytest.mark.parametrize("rule", [Broken(), Unwritable()])
def test_a_fault_of_a_rule_is_told_as_that(setup: Setup, jobs: list[Train], rule: Rule) -> None:
    with (
        closing(workers(setup, rule, count=1)) as engine,
        pytest.raises(
            RuleError, match=r"encode of rule flexlora: \w+Error: a fault of ours \(test_workers"
        ),
    ):
        list(engine.exchange(jobs))


class Named(FlexLoRA):  # type: ignore[misc]
    def encode(self, trained: Adapter, sent: Adapter, memory: Memory) -> Encoded:
        raise TrainingError(f"it is {os.environ['NAMED']} in {os.getcwd()}")


linux = pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="looks at processes as Linux shows them"
)


@linux
def test_a_worker_is_where_its_parent_is_now(
    setup: Setup, jobs: list[Train], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its folder and environment, though it is a fork of what began before; when that is killed,
    another one begins."""
    for name in ("first", "second", "third"):
        monkeypatch.setenv("NAMED", name)
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with closing(workers(setup, Named(), count=1)) as engine:
            (failed,) = engine.exchange(jobs[:1])
            status = Path(f"/proc/{engine.processes[0]}/status").read_text()
        assert isinstance(failed, Failure)
        assert failed.reason == f"it is {name} in {tmp_path / name}"
        if name == "second":
            (begun,) = re.findall(r"PPid:\s+(\d+)", status)
            assert int(begun) != os.getpid()
            os.kill(int(begun), signal.SIGKILL)


class Mine(TrainingError):
    """Of a class that the parent may not know."""


def test_an_error_that_says_what_to_do_keeps_its_class_and_words(
    setup: Setup, jobs: list[Train]
) -> None:
    """A model that is not there: exit code 2 with one worker and with many."""
    model = setup.config.model.model_copy(update={"name": "/no/such/model"})
    with closing(workers(setup, model=model)) as engine, pytest.raises(ModelError) as raised:
        list(engine.exchange(jobs))
    assert str(raised.value).startswith("model folder /no/such/model does not exist; give")
    assert "load_model" in "".join(raised.value.__notes__)  # Where it came from, for --debug.
    assert raised.value.exit_code == 2
    sent = _sendable(Mine("a word of ours"))
    assert (type(sent), str(sent)) == (TrainingError, "a word of ours")


class Loads(FlexLoRA):  # type: ignore[misc]
    """Kills the worker while it loads the model, as often as there are files to take away."""

    folder: Path

    def __init__(self, folder: Path) -> None:
        vars(self)["folder"] = folder
        super().__init__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        left = sorted(self.folder.iterdir())
        if left:
            left[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("deaths", "lives"), [(1, True), (2, False)])
def test_a_worker_that_dies_before_it_has_its_model_is_no_clients_doing(
    setup: Setup, jobs: list[Train], tmp_path: Path, deaths: int, lives: bool
) -> None:
    for death in range(deaths):
        (tmp_path / str(death)).touch()
    with closing(workers(setup, Loads(tmp_path), count=1)) as engine:
        if lives:
            assert all(isinstance(x, Reply) for x in engine.exchange(jobs[:1]))
            return
        message = r"ended 2 times while it loaded its model \(exit code -9\).*set run.workers lower"
        with pytest.raises(RunError, match=message):
            list(engine.exchange(jobs[:1]))
        assert engine.processes == []


def test_an_exchange_that_is_left_half_way_leaves_nothing(setup: Setup, jobs: list[Train]) -> None:
    with closing(workers(setup)) as engine:
        begun = engine.exchange(jobs[:2])
        next(begun)
        begun.close()  # type: ignore[attr-defined]
        asked = [replace(job, id=f"new-{job.id}") for job in jobs[2:4]]
        assert set(by_job(engine.exchange(asked))) == {job.id for job in asked}


class Closure(FlexLoRA):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.half = lambda x: x / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": Closure()}, "rule 'flexlora' cannot be sent to a worker process .*run.workers"),
        (
            {"metrics": (text_metric(lambda text, _: len(text), name="long"),)},
            "metric 'long' cannot be sent to a worker process",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(
    setup: Setup, jobs: list[Train], changes: dict[str, Any], message: str
) -> None:
    with closing(workers(setup, **changes)) as engine, pytest.raises(RunError, match=message):
        list(engine.exchange(jobs))
    assert multiprocessing.active_children() == []


def test_no_workers_are_no_engine() -> None:
    with pytest.raises(ValueError, match="equipment is empty"):
        Workers([], {}, {})


OWN = """
from flexlora.evaluation import Metric

HALF = 0.5

def as_long(prediction, references):
    return HALF * len(prediction)

tokens = Metric("tokens", "loss", False, lambda example, loss: loss.tokens)
"""


def test_a_metric_of_ones_own_is_the_same_with_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function and a whole metric of a file, which the workers get as it was read."""
    before = dict(METRICS)
    monkeypatch.chdir(tmp_path)
    Path("my.py").write_text(OWN)
    own = {"metric": "my.py:as_long", "metrics": ["my.py:tokens"], "on_clients": "tuned"}
    rest = {"unseen": False, "own_examples": 0}
    try:
        found = []
        for count in (1, 2):
            config = small(
                federation={"rounds": 1}, evaluation={**own, **rest}, run={"workers": count}
            )
            run(config, tmp_path / str(count))
            found += Run.open(tmp_path / str(count)).read_metrics()
    finally:
        METRICS.clear()
        METRICS.update(before)
    one, two = ({k: v for k, v in x.items() if k not in MEASURED} for x in found)
    assert one == two
    assert "as_long" in str(one)


def test_a_failure_comes_back(setup: Setup, jobs: list[Train]) -> None:
    with closing(workers(setup, Refusing(), count=1)) as engine:
        found = by_job(engine.exchange(jobs))
    assert {outcome.reason for outcome in found.values() if isinstance(outcome, Failure)} == {
        "this client gives nothing"
    }


def test_delta_survives_the_pipe(setup: Setup) -> None:
    layer = setup.model.layers[0]
    part = LowRank(torch.randn(layer.m, 2), torch.randn(2, layer.n))
    read = unpack_delta(pack_delta(Delta(3, {layer.name: part})))
    assert (read.version, set(read.layers)) == (3, {layer.name})
    assert torch.equal(read.layers[layer.name].left, part.left)
    assert torch.equal(read.layers[layer.name].right, part.right)


DEAF = """
import multiprocessing, signal, time
from pathlib import Path
from flexlora.engines.worker_process import deaf_to_ctrl_c

before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
with deaf_to_ctrl_c():
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    process.start()
assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before
print(Path(f"/proc/{process.pid}/status").read_text())
process.kill()
"""


@linux
def test_ctrl_c_reaches_no_worker_however_early_it_comes(tmp_path: Path, warm: Warm) -> None:
    """The signal is blocked from the start, for the first process that Python begins too: a worker
    has no handler while it imports."""
    (tmp_path / "deaf.py").write_text(DEAF)
    environment = {**os.environ, **warm.environment}
    command = ["python", "deaf.py"]
    printed = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    (blocked,) = re.findall(r"SigBlk:\s+(\w+)", printed)
    assert int(blocked, 16) >> (signal.SIGINT - 1) & 1
