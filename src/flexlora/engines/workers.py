"""The engine of several processes on this machine: one for each GPU, or for groups of CPU cores."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from flexlora.adapters import Delta
from flexlora.engines.cohorts import Examples, Halved, cohorts, cut, cut_to_train, ignore_halved
from flexlora.engines.jobs import Failure, Job, Outcome, Train
from flexlora.engines.worker import Begun, Done, Equipment, Order, pack_delta, work
from flexlora.errors import RunError

_NEVER_BEGAN = (
    "a worker process ended with an error before it began; in a script, put what trains under "
    "if __name__ == '__main__', for every worker imports the script, or set run.workers to 1"
)
_TRIES = 2  # A client that is alone with a worker that dies so often is given up.


class Workers:
    """Hands cohorts of clients to worker processes and yields what comes back.

    equipment: one for each worker. Which worker trains a client changes nothing in its result, on
    equal devices. A worker that dies is replaced, and its clients are trained again: once
    together, then one by one, so that only the one that kills it is a `Failure`. Where a worker
    has halved its cohort for want of memory, all do, and `halved` is told.

    RunError for a worker that ends with an error before it begins, which is no client's doing.

    Workers start with the first exchange; `close` ends them.
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
        self.data = data
        self.held_out = held_out
        self.cohort = cohort
        self.halved = halved
        self._equipment = equipment
        self._workers: dict[int, _Worker] = {}

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        waiting = [_Batch(tuple(x)) for x in cohorts(jobs, self.data, self.cohort)]
        deltas: dict[int, tuple[Delta, bytes]] = {}
        busy: dict[int, _Batch] = {}
        for place in range(min(len(waiting), len(self._equipment))):
            self._worker(place)  # All at once: each takes seconds to begin.
        while waiting or busy:
            for place in range(len(self._equipment)):
                if waiting and place not in busy:
                    busy[place] = waiting.pop(0)
                    self._send(place, busy[place], deltas)
            for place in self._ready(busy):
                worker = self._workers[place]
                done = worker.receive()
                if isinstance(done, Begun):
                    worker.begun = True
                    continue
                batch = busy.pop(place)
                if done is None:
                    exit_code = self._workers.pop(place).end(patience=10.0)
                    if exit_code == 1 and not worker.begun:
                        raise RunError(_NEVER_BEGAN)
                    again, lost = _again(batch, exit_code)
                    waiting = again + waiting
                    yield from lost
                    continue
                if done.broken is not None:
                    raise RuntimeError(f"a worker process failed:\n{done.broken}")
                first = batch.jobs[0]
                if isinstance(first, Train) and done.cohort < min(self.cohort, len(batch.jobs)):
                    self.cohort = done.cohort
                    self.halved(first.round, done.cohort)
                    waiting = [part for x in waiting for part in x.cut_to_train(done.cohort)]
                yield from done.outcomes

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()

    @property
    def processes(self) -> list[int]:
        """The ids of the worker processes that run now."""
        return [worker.process.pid or 0 for worker in self._workers.values()]

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
        self, worker: _Worker, job: Job, packed: dict[int, tuple[Delta, bytes]]
    ) -> bytes | None:
        """The Δ that this job stands on, packed once an exchange; None where the worker has it."""
        if not isinstance(job, Train) or worker.delta is job.delta:
            return None
        worker.delta, key = job.delta, id(job.delta)
        if key not in packed:
            packed[key] = job.delta, pack_delta(job.delta)
        return packed[key][1]

    def _worker(self, place: int) -> _Worker:
        if place not in self._workers:
            self._workers[place] = _Worker.start(self._equipment[place])
        return self._workers[place]

    def _ready(self, busy: Mapping[int, _Batch]) -> list[int]:
        pipes = {self._workers[place].pipe: place for place in busy}
        return sorted(pipes[pipe] for pipe in wait(list(pipes)) if isinstance(pipe, Connection))


_NONE = Delta()


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Processes begun within never hear Ctrl-C, which a terminal sends to all; we hear it after.

    Not only from `work` on: before it, a worker imports for seconds, and would end in a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Jobs to do together. tries: how often they have been begun before."""

    jobs: tuple[Job, ...]
    tries: int = 0

    def cut(self, size: int) -> list[_Batch]:
        return [replace(self, jobs=tuple(part)) for part in cut(self.jobs, size)]

    def cut_to_train(self, size: int) -> list[_Batch]:
        return [replace(self, jobs=tuple(part)) for part in cut_to_train(self.jobs, size)]


def _again(batch: _Batch, exit_code: int | None) -> tuple[list[_Batch], list[Failure]]:
    """What to try again after a worker died over it, and what is given up."""
    tried = replace(batch, tries=batch.tries + 1)
    if tried.tries < _TRIES:
        return [tried], []
    if len(batch.jobs) > 1:
        return [replace(part, tries=_TRIES - 1) for part in tried.cut(1)], []
    (job,) = batch.jobs
    reason = f"its worker process died over it {tried.tries} times (exit code {exit_code})"
    return [], [Failure(job.id, job.client, reason)]


class _Worker:
    """A process, the pipe to it, whether it takes orders, and the Δ that it holds."""

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.begun = False
        self.delta: Delta | None = None

    @staticmethod
    def start(equipment: Equipment) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, equipment), daemon=True)
        with deaf_to_ctrl_c():
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def send(self, order: Order) -> None:
        with suppress(OSError):  # It is dead: `receive` will say so.
            self.pipe.send(order)

    def receive(self) -> Begun | Done | None:
        """What it gave; None if it died."""
        try:
            given: Begun | Done = self.pipe.recv()
        except (EOFError, OSError):
            return None
        return given

    def end(self, patience: float = 0.2) -> int | None:
        """Stop it, after so many seconds by force; its exit code."""
        self.pipe.close()
        self.process.join(timeout=patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode
