"""Several processes: the results of one, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flexlora.adapters import Adapter, Delta
from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Failure, Outcome, Reply, Train
from flexlora.engines.worker import Equipment, pack_delta, unpack_delta
from flexlora.engines.workers import Workers, deaf_to_ctrl_c
from flexlora.errors import TrainingError
from flexlora.federation import prepare
from flexlora.federation.setup import Setup
from flexlora.lowrank import LowRank
from flexlora.rules import Encoded, Memory, Rule, make_rule
from flexlora.rules.flexlora import FlexLoRA
from small import first_jobs, small

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


def workers(setup: Setup, rule: Rule = RULE, count: int = 2, cohort: int = 1) -> Workers:
    model = setup.config.model
    equipment = Equipment(model, "cpu", rule, setup.settings.validation, threads=1)
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
        deadly.id, deadly.client, "its worker process died over it 2 times (exit code -9)"
    )


@pytest.mark.parametrize("rule", [Broken(), Unwritable()])
def test_a_fault_of_ours_is_told(setup: Setup, jobs: list[Train], rule: Rule) -> None:
    with (
        closing(workers(setup, rule, count=1)) as engine,
        pytest.raises(RuntimeError, match=r"(?s)a worker process failed:.*a fault of ours"),
    ):
        list(engine.exchange(jobs))


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


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at the process as Linux shows it")
def test_ctrl_c_reaches_no_worker_however_early_it_comes() -> None:
    """The signal is blocked from the start: a worker has no handler while it imports."""
    with deaf_to_ctrl_c():
        process = subprocess.Popen(
            [sys.executable, "-c", "print('ready', flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert process.poll() is None
        process.kill()
    (blocked,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")]
    assert int(blocked, 16) >> (signal.SIGINT - 1) & 1
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
