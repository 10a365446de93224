"""The engine of several processes on this machine: one for each GPU, or for groups of CPU cores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait

from flexlora.adapters import Delta
from flexlora.engines.cohorts import Examples, Halved, cohorts, cut, cut_to_train, ignore_halved
from flexlora.engines.jobs import Failure, Job, Outcome, Train
from flexlora.engines.worker import (
    Begun,
    Broken,
    Equipment,
    Order,
    Ready,
    pack_delta,
)
from flexlora.engines.worker_process import WorkerProcess
from flexlora.errors import FlexLoRAError, RunError

_NEVER_BEGAN = (
    "a worker process ended with an error before it began; in a script, put what trains under "
    "if __name__ == '__main__', for every worker imports the script, or set run.workers to 1"
)
_DEATHS = 2  # After so many a cohort is taken apart, and a client that is alone is given up.
_STARTS = 2  # A worker that dies so often in a row while it loads its model will not live.


class Workers:
    """Hands cohorts of clients to worker processes and yields what comes back.

    equipment: one for each worker. Which worker trains a client changes nothing in its result, on
    equal devices. A worker that dies is replaced, and its clients are trained again: once
    together, then one by one, so that only the one that kills it is a `Failure`. Where a worker
    has halved its cohort for want of memory, all do, and `halved` is told.

    What is no client's doing is raised: the worker's own error where it gives one, and RunError
    for a rule, screen or metric that cannot be sent, and for a worker that ends before it has its
    model. ValueError without equipment.

    Workers start with the first exchange; `close` ends them. Those that are busy when an exchange
    is left half way end with it.
    """

    def __init__(
        self,
        equipment: Sequence[Equipment],
        data: Examples,
        held_out: Examples,
        *,
        cohort: int = 1,
        halved: Halved = ignore_halved,
    ) -> None:
        if not equipment:
            raise ValueError("equipment is empty; give that of one worker at least")
        self.data = data
        self.held_out = held_out
        self.cohort = cohort
        self.halved = halved
        self._equipment = equipment
        self._starts = [0] * len(equipment)
        self._workers: dict[int, WorkerProcess] = {}

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        waiting = [_Batch(tuple(x)) for x in cohorts(jobs, self.data, self.cohort)]
        deltas: dict[int, tuple[Delta, bytes]] = {}
        busy: dict[int, _Batch] = {}
        try:
            for place in range(min(len(waiting), len(self._equipment))):
                self._worker(place)  # All at once: each takes seconds to begin.
            while waiting or busy:
                for place in range(len(self._equipment)):
                    if waiting and place not in busy:
                        busy[place] = waiting.pop(0)
                        self._send(place, busy[place], deltas)
                for place in self._ready(busy):
                    given = self._workers[place].receive()
                    if isinstance(given, Broken):
                        raise _error_of(given)
                    if isinstance(given, Ready):
                        self._starts[place] = 0
                    if isinstance(given, Begun | Ready):
                        continue
                    batch = busy.pop(place)
                    if given is None:
                        again, lost = self._after_death(place, batch)
                        waiting = again + waiting
                        yield from lost
                        continue
                    first = batch.jobs[0]
                    if isinstance(first, Train) and given.cohort < min(
                        self.cohort, len(batch.jobs)
                    ):
                        self.cohort = given.cohort
                        self.halved(first.round, given.cohort)
                        waiting = [part for x in waiting for part in x.cut_to_train(given.cohort)]
                    yield from given.outcomes
        finally:
            for place in busy.keys() & self._workers:  # Left half way: they answer nobody.
                self._end(place)

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()

    @property
    def processes(self) -> list[int]:
        """The ids of the worker processes that run now."""
        return [worker.process.pid or 0 for worker in self._workers.values()]

    def _end(self, place: int, patience: float = 0.2) -> int | None:
        """Its exit code."""
        return self._workers.pop(place).end(patience)

    def _after_death(self, place: int, batch: _Batch) -> tuple[list[_Batch], list[Failure]]:
        """What to try again after a worker died over these jobs, and what is given up.

        Before it has its model, it died of something else.
        """
        worker = self._workers[place]
        exit_code = self._end(place, patience=10.0)
        if worker.last is Ready:
            return _again(batch, exit_code)
        self._starts[place] += 1
        if exit_code == 1 and worker.last is None:
            raise RunError(_NEVER_BEGAN)
        if self._starts[place] >= _STARTS:
            raise RunError(
                f"a worker process ended {self._starts[place]} times while it loaded its model "
                f"(exit code {exit_code}), as it does for want of memory; set run.workers lower, "
                "model.dtype to bfloat16, or model.quantise"
            )
        return [batch], []

    def _send(self, place: int, batch: _Batch, deltas: dict[int, tuple[Delta, bytes]]) -> None:
        worker = self._worker(place)
        clients = {job.client for job in batch.jobs}
        worker.send(
            Order(
                tuple(replace(x, delta=_NONE) if isinstance(x, Train) else x for x in batch.jobs),
                self._delta_for(worker, batch.jobs[0], deltas),
                {client: self.data[client] for client in clients if client in self.data},
                {client: self.held_out[client] for client in clients if client in self.held_out},
                self.cohort,
            )
        )

    def _delta_for(
        self, worker: WorkerProcess, job: Job, packed: dict[int, tuple[Delta, bytes]]
    ) -> bytes | None:
        """The Δ that this job stands on, packed once an exchange; None where the worker has it."""
        if not isinstance(job, Train) or worker.delta is job.delta:
            return None
        worker.delta, key = job.delta, id(job.delta)
        if key not in packed:
            packed[key] = job.delta, pack_delta(job.delta)
        return packed[key][1]

    def _worker(self, place: int) -> WorkerProcess:
        if place not in self._workers:
            self._workers[place] = WorkerProcess.start(self._equipment[place])
        return self._workers[place]

    def _ready(self, busy: Mapping[int, _Batch]) -> list[int]:
        pipes = {self._workers[place].pipe: place for place in busy}
        return sorted(pipes[pipe] for pipe in wait(list(pipes)) if isinstance(pipe, Connection))


_NONE = Delta()


@dataclass(frozen=True, eq=False)
class _Batch:
    """Jobs to do together. deaths: workers that died over them, with whomever they were."""

    jobs: tuple[Job, ...]
    deaths: int = 0

    def cut(self, size: int) -> list[_Batch]:
        return [replace(self, jobs=tuple(part)) for part in cut(self.jobs, size)]

    def cut_to_train(self, size: int) -> list[_Batch]:
        return [replace(self, jobs=tuple(part)) for part in cut_to_train(self.jobs, size)]


def _again(batch: _Batch, exit_code: int | None) -> tuple[list[_Batch], list[Failure]]:
    """What to try again after a worker died over it, and what is given up."""
    tried = replace(batch, deaths=batch.deaths + 1)
    if tried.deaths < _DEATHS:
        return [tried], []
    if len(batch.jobs) > 1:
        return tried.cut(1), []
    (job,) = batch.jobs
    reason = f"its worker process died over it {tried.deaths} times (exit code {exit_code})"
    return [], [Failure(job.id, job.client, reason)]


def _error_of(broken: Broken) -> Exception:
    """A fault of ours comes with the worker's traceback."""
    if isinstance(broken.error, FlexLoRAError):
        return broken.error
    return RuntimeError(f"a worker process failed:\n{broken.error}")
