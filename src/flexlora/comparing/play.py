"""The player: takes the next free run of a list, again and again, until all are done or failed.

Any number of processes play one folder. A run is taken under a lock of its own, which the system
lets go of when its process dies; whoever comes next goes on with it where it stands.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from filelock import Timeout

from flexlora.comparing.cells import SET_ASIDE
from flexlora.comparing.comparison import Comparison
from flexlora.comparing.failures import Failures
from flexlora.comparing.folder import lock_of, require_current
from flexlora.comparing.inputs import Inputs
from flexlora.comparing.plan import Job
from flexlora.errors import FlexLoRAError
from flexlora.federation import Session, Setup
from flexlora.federation.as_it_was import described
from flexlora.federation.observers import Observer
from flexlora.runs.once import read_config
from flexlora.runs.run_directory import Run

_LOOKS = 0.5  # Seconds between two looks at what others play.


class Watcher(Protocol):
    """Who is told what is played; `ends_all` says of an error in a run whether it is no failure of
    that run, but the end of this process."""

    def observer(self, job: Job) -> Observer: ...
    def begins(self, job: Job, done: int, of: int) -> None: ...
    def ends(self, job: Job) -> None: ...
    def fails(self, job: Job, reason: str) -> None: ...
    def waits(self, others: int) -> None: ...
    def notes(self, text: str) -> None: ...
    def ends_all(self, error: Exception) -> bool: ...


class Player:
    """Plays jobs in OUT; the model and the data are loaded once and shared where they can be."""

    def __init__(
        self,
        comparison: Comparison,
        out: Path,
        watcher: Watcher,
        failures: Failures,
        like: Setup | None = None,
    ) -> None:
        self.comparison = comparison
        self.out = out
        self.watcher = watcher
        self.failures = failures
        self._setup = like
        self._done: set[str] = set()
        self._inputs = Inputs(out)

    def play(self, jobs: Sequence[Job]) -> None:
        """Come back when every one of these is done or has failed since this process began.

        What others play is waited for, and taken over where they die. Raises RunError where they
        play another comparison by now.
        """
        waiting = False
        while left := self._left(jobs):
            if any(self._taken(job, jobs) for job in left):
                waiting = False
                continue
            if not waiting:
                self.watcher.waits(len(left))
                waiting = True
            time.sleep(_LOOKS)

    def done(self, job: Job) -> bool:
        """Whether the run has ended and is the one that is asked for."""
        key = job.key(self.out)
        if key not in self._done and (job.folder / "results.json").is_file() and _is_of(job):
            self._done.add(key)
        return key in self._done

    def _left(self, jobs: Sequence[Job]) -> list[Job]:
        failed = self.failures.now()
        return [job for job in jobs if not self.done(job) and job.key(self.out) not in failed]

    def _taken(self, job: Job, jobs: Sequence[Job]) -> bool:
        """Play it, unless another process does; whether it was free."""
        with self._lock(job) as mine:
            if not mine:
                return False
            if self._left([job]):  # Not since the list was made.
                self._play(job, sum(map(self.done, jobs)), len(jobs))
            return True

    def _play(self, job: Job, done: int, of: int) -> None:
        key = job.key(self.out)
        if job.folder.exists() and not _is_of(job):
            require_current(self.comparison, self.out)
            self._set_aside(job)
        self.watcher.begins(job, done, of)
        try:
            self._session(job)
        except Exception as error:
            if self.watcher.ends_all(error):
                raise
            self.watcher.fails(job, self.failures.add(key, error))
        else:
            self.failures.drop(key)
            self.watcher.ends(job)

    def _session(self, job: Job) -> None:
        going_on = job.folder.exists()
        if going_on:
            session = Session.resuming(job.folder, like=self._setup)
        else:
            session = Session.of(job.config, self._setup)
            self._require_same_inputs(session)
        self._setup = session.setup
        session.play(None if going_on else job.folder, observer=self.watcher.observer(job))
        if job.rate is not None:  # A grid of rates is many adapters, which nobody asks for.
            Run.open(job.folder).leave_scores()

    def _require_same_inputs(self, session: Session) -> None:
        """Raise RunError where data, model or code are not those of the other runs by now."""
        parent = None if session.start is None else session.start.parent
        self._inputs.require(session.config, described(session.setup), parent)

    def _set_aside(self, job: Job) -> None:
        """A run of this arm and seed at a learning rate that is not its own any more."""
        folder = self.out / SET_ASIDE / job.folder.relative_to(self.out)
        number = 1
        while (target := folder.with_name(f"{folder.name}-{number}")).exists():
            number += 1
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(job.folder, target)
        self.watcher.notes(f"{job.title}: the run at another learning rate is now {target}")

    @contextmanager
    def _lock(self, job: Job) -> Iterator[bool]:
        """Whether this process may play it, as long as the block lasts."""
        lock = lock_of(self.out, job.key(self.out).replace("/", "~"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def _is_of(job: Job) -> bool:
    """Whether what lies there was begun with the job's config.

    What is damaged is taken for it: playing it will tell.
    """
    try:
        return read_config(job.folder) == job.config
    except FlexLoRAError:
        return True


def last_score(folder: Path, metric: str) -> float | None:
    """The metric on validation after a run's last round: the server's, else the clients' own.

    Where the clients decide by it, what they come to: a mean of theirs is what one of them likes.
    """
    run = Run.open(folder)
    records = run.records()
    if not records:
        return None
    last = records[-1]
    if metric in last.scores:
        return last.scores[metric]
    decisive = None if last.on_clients is None else last.on_clients.decisive
    if decisive is not None and run.resolved.get("metric") == metric:
        return decisive
    if last.on_clients is None or metric not in last.on_clients.shared.metrics:
        return None
    return last.on_clients.shared.metrics[metric].mean
