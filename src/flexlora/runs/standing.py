"""How a run stands: counts, best round, time left; from its directory, and from what is told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from statistics import fmean
from typing import final

from flexlora.config.schedule import validations
from flexlora.formats.json_fields import table, text
from flexlora.runs.deciding import decisive
from flexlora.runs.events import (
    Ended,
    Event,
    Failed,
    Replied,
    RoundBegun,
    RoundEnded,
    Scoring,
    Spare,
    Started,
)
from flexlora.runs.fields import truth
from flexlora.runs.progress import Progress
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Run

RECENT = 5  # rounds that an estimate of the time left rests on
MISSING = ("train", "late", "quarantine")  # How a client that was drawn may come to nothing.


@final
class Standing:
    """What is known of a run: the rounds that its directory has, and all that was `told` since.

    now: seconds since 1970, as events have them. round: the one in progress, 0 between rounds;
    drawn: how many clients for it, in this attempt, replied: how many of each type did, failed: how
    many did not (who is left out beside the others did); done: the rounds that ended; best: the one
    that validated best, gain: of the last validation against the best before it; scoring: the state
    that is scored, or ""; ended: all is done.
    """

    def __init__(self, run: Run, now: Callable[[], float] = time.time) -> None:
        """As the run stands between two rounds; `of` knows also the round in progress."""
        self.run = run
        self.name = run.folder.absolute().name
        self.config = run.config
        self.now = now
        self.began = self.round_began = now()
        self.round = 0
        self.drawn = 0
        self.replied: Counter[str] = Counter()
        self.failed = 0
        self._came: set[str] = set()
        self.done: list[RoundRecord] = []
        self.best: RoundRecord | None = None
        self.progress = Progress()
        self.gain: float | None = None
        self.scoring = ""
        self.ended = False
        for record in run.committed():
            self._end(record)

    @staticmethod
    def of(run: Run, now: Callable[[], float] = time.time) -> Standing:
        """As anybody sees it who has the run's directory alone, while it is played or later.

        Of a run that nobody plays, time stands still at the last that was told.
        """
        standing, events = Standing(run, now), run.events(Event)
        for event in events:
            standing.told(event)
        if events and not run.in_use():
            last = events[-1].time
            standing.now = lambda: last
        return standing

    def told(self, event: Event) -> None:
        match event:
            case Started():
                self.began = event.time
                self._between_rounds()
                self.scoring, self.ended = "", False
            case RoundBegun() if event.round > self.last:
                self._between_rounds()
                self.round, self.drawn = event.round, len(event.clients)
                self.round_began = event.time
            case Replied() if event.round == self.round:
                self._came.add(event.client)
                self.replied[event.type] += 1
            case Failed() if event.round == self.round and event.kind in MISSING:
                self.failed += event.client not in self._came
                self._came.add(event.client)
            case Spare() if event.round == self.round:
                self._came.add(event.client)
            case RoundEnded():
                self._end(event.record)
            case Scoring():
                self.scoring = event.state
            case Ended():
                self.scoring, self.ended = "", True
            case _:
                pass

    @property
    def rounds(self) -> int:
        return self.config.federation.rounds

    @property
    def last(self) -> int:
        """The round that ended last."""
        return self.done[-1].round if self.done else self.run.start_round or 0

    @property
    def elapsed(self) -> float:
        """Seconds since the process that plays began to."""
        return max(0.0, self.now() - self.began)

    @property
    def in_flight(self) -> int:
        return max(0, self.drawn - len(self._came))

    def decisive(self, record: RoundRecord) -> float | None:
        """What the best round minimises; None for a round that was not validated."""
        if not record.validated:
            return None
        metric, by = self.metric, self.config.evaluation.decide_by
        return decisive(metric, self._higher_is_better, by, record)

    @cached_property
    def metric(self) -> str:
        """The name of the metric that decides; as the run noted it, since it may be in a file."""
        with self.run.undamaged("resolved.toml"):
            return text(self.run.resolved, "metric")

    @cached_property
    def _higher_is_better(self) -> bool:
        with self.run.undamaged("resolved.toml"):
            return truth(table(self.run.resolved, "higher_is_better"), self.metric)

    def left(self) -> float | None:
        """Seconds that the rounds still take, as far as can be told; None before any reply.

        From the recent rounds; in the first one, from the clients that have replied. Validation
        counts as soon as one was seen, the final scoring never.
        """
        recent = self.done[-RECENT:]
        here = self.now() - self.round_began if self.round else 0.0
        if recent:
            training = fmean(record.seconds_of(scoring=False) for record in recent)
        else:
            came = self.replied.total() + self.failed
            if not came:
                return None
            training = here / came * self.drawn
        scored = [s for record in self.done if (s := record.seconds_of(scoring=True))]
        scoring = fmean(scored[-RECENT:]) if scored else 0.0
        rounds = max(0, self.rounds - self.last)
        scorings = validations(self.last, self.config.evaluation.every, self.rounds)
        return max(0.0, rounds * training + scorings * scoring - here)

    def _between_rounds(self) -> None:
        self.round = self.drawn = self.failed = 0
        self.replied = Counter()
        self._came = set()

    def _end(self, record: RoundRecord) -> None:
        self._between_rounds()
        if record.round <= self.last:
            return  # The directory had it already.
        self.done.append(record)
        value = self.decisive(record)
        if value is not None:
            self.gain = None if self.best is None else self.progress.best - value
            self.progress = self.progress.after(record.round, value)
            if self.progress.best_round == record.round:
                self.best = record
