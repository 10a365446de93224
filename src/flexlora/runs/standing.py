"""How a run stands: counts, best round, time left; from its directory, and from what is told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from statistics import fmean
from typing import final

from flexlora.runs.deciding import decide
from flexlora.runs.events import (
    Ended,
    Event,
    Failed,
    Replied,
    RoundBegun,
    RoundEnded,
    Scoring,
    Started,
)
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Run

RECENT = 5  # rounds that an estimate of the time left rests on


@final
class Standing:
    """What is known of a run: the rounds that its directory has, and all that was `told` since.

    now: seconds since 1970, as events have them. round: the one in progress, 0 between rounds;
    clients: those drawn for it, replied: how many of each type did, failed: how many did not;
    done: the rounds that ended; best: the one that validated best, gain: of the last validation
    against the best before it; scoring: the state that is scored, or ""; ended: all is done.
    """

    def __init__(self, run: Run, now: Callable[[], float] = time.time) -> None:
        """As the run stands between two rounds; `of` knows also the round in progress."""
        self.run = run
        self.name = run.folder.absolute().name
        self.config = run.config
        self.now = now
        self.began = self.round_began = now()
        self.round = 0
        self.clients = 0
        self.replied: Counter[str] = Counter()
        self.failed = 0
        self.done: list[RoundRecord] = []
        self.best: RoundRecord | None = None
        self.gain: float | None = None
        self.scoring = ""
        self.ended = False
        for record in run.records():
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
                self.round, self.clients = event.round, len(event.clients)
                self.round_began = event.time
            case Replied() if event.round == self.round:
                self.replied[event.type] += 1
            case Failed() if event.round == self.round and event.kind == "train":
                self.failed += 1
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
        return max(0, self.clients - self.replied.total() - self.failed)

    def decisive(self, record: RoundRecord) -> float | None:
        """What the best round minimises; None for a round that was not validated."""
        return decide(self.config, record) if record.validated else None

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
            training = here / came * self.clients
        scored = [s for record in self.done if (s := record.seconds_of(scoring=True))]
        scoring = fmean(scored[-RECENT:]) if scored else 0.0
        every, rounds = self.config.evaluation.every, range(self.last + 1, self.rounds + 1)
        validations = sum(every > 0 and (n % every == 0 or n == self.rounds) for n in rounds)
        return max(0.0, len(rounds) * training + validations * scoring - here)

    def _between_rounds(self) -> None:
        self.round = self.clients = self.failed = 0
        self.replied = Counter()

    def _end(self, record: RoundRecord) -> None:
        self._between_rounds()
        if record.round <= self.last:
            return  # The directory had it already.
        self.done.append(record)
        value = self.decisive(record)
        if value is not None:
            before = None if self.best is None else self.decisive(self.best)
            self.gain = None if before is None else before - value
            if before is None or value < before:
                self.best = record
