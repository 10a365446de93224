"""How a run stands, from what its observer is told: counts, best round, time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from statistics import fmean

from flexlora.engines.jobs import Failure, Reply
from flexlora.runs.deciding import decide
from flexlora.runs.run_directory import Record, Run

RECENT = 5  # rounds that an estimate of the time left rests on
_SCORING = ("validate", "evaluate_on_clients", "spectra")


class Standing:
    """What is known of a run; the rounds before a resume included.

    now: seconds of a clock that only rises.
    """

    def __init__(self, run: Run, now: Callable[[], float] = time.monotonic) -> None:
        self.run = run
        self.name = run.folder.absolute().name
        self.config = run.config
        self.now = now
        self.began = now()
        self.round = 0  # the one in progress; 0 between rounds
        self.done: list[Record] = []
        self.best: Record | None = None
        self.gain: float | None = None  # of the last validation against the best one before it
        self.types = {c["id"]: c["type"] for c in run.data.get("partition", {}).get("clients", ())}
        self.round_began = self.began
        self.clients = 0
        self.replied: Counter[str] = Counter()
        self.failed = 0
        self.scoring = ""
        for record in run.read_metrics():
            self.ended_round(record)

    @property
    def rounds(self) -> int:
        return self.config.federation.rounds

    @property
    def last(self) -> int:
        """The round that ended last."""
        return self.done[-1]["round"] if self.done else self.run.start_round or 0

    @property
    def elapsed(self) -> float:
        """Seconds since this process began to play."""
        return self.now() - self.began

    def started_round(self, round: int, clients: int) -> None:
        self.round, self.clients, self.round_began = round, clients, self.now()
        self.replied, self.failed = Counter(), 0

    def outcome(self, outcome: Reply | Failure) -> None:
        if isinstance(outcome, Failure):
            self.failed += 1
        else:
            self.replied[self.types.get(outcome.client, "")] += 1

    def ended_round(self, record: Record) -> None:
        self.round = 0
        self.done.append(record)
        value = self.decisive(record)
        if value is not None:
            before = None if self.best is None else self.decisive(self.best)
            self.gain = None if before is None else before - value
            if before is None or value < before:
                self.best = record

    def decisive(self, record: Record) -> float | None:
        """What the best round minimises; None for a round that was not validated."""
        validated = "validation" in record or "on_clients" in record
        return decide(self.config, record) if validated else None

    @property
    def in_flight(self) -> int:
        return max(0, self.clients - self.replied.total() - self.failed)

    def left(self) -> float | None:
        """Seconds that the rounds still take, as far as can be told; None before any reply.

        From the recent rounds; in the first one, from the clients that have replied. Validation
        counts as soon as one was seen, the final scoring never.
        """
        recent = self.done[-RECENT:]
        here = self.now() - self.round_began if self.round else 0.0
        if recent:
            training = fmean(sum(_of(r, scoring=False)) for r in recent)
        else:
            came = self.replied.total() + self.failed
            if not came:
                return None
            training = here / came * self.clients
        scored = [seconds for r in self.done if (seconds := sum(_of(r, scoring=True)))]
        scoring = fmean(scored[-RECENT:]) if scored else 0.0
        every, rounds = self.config.evaluation.every, range(self.last + 1, self.rounds + 1)
        validations = sum(every > 0 and (n % every == 0 or n == self.rounds) for n in rounds)
        return max(0.0, len(rounds) * training + validations * scoring - here)


def _of(record: Record, *, scoring: bool) -> list[float]:
    return [s for phase, s in record["seconds"].items() if (phase in _SCORING) == scoring]


def clock(seconds: float) -> str:
    """ "0:07", "12:30", "3:05:00"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_left(standing: Standing) -> str:
    """ "about 0:12 left", "at most" where the run may stop before its last round; or ""."""
    left = standing.left()
    if left is None or standing.last >= standing.rounds:
        return ""
    word = "at most" if standing.config.federation.patience else "about"
    return f"{word} {clock(left)} left"


def state_words(state: str) -> str:
    """A scored state for people: "base", "full", or a client type."""
    words = {"base": "base model", "start": "starting state", "full": "full state"}
    return words.get(state, f"clients of {state}")


def score_words(standing: Standing, record: Record) -> str:
    """The scores of a round: the server's, and the clients' where they decide; "" without any."""
    config = standing.config.evaluation
    parts = [
        f"{name} {value:.3f}"
        for name, value in record.get("validation", {}).items()
        if name not in ("clients", "examples") and value is not None
    ]
    if config.decide_by == "clients" and "on_clients" in record:
        found = record["on_clients"]["global"]["metrics"].get(config.metric)
        parts += [f"on clients {config.metric} {found['mean']:.3f}"] if found else []
    return ", ".join(parts)


def best_words(standing: Standing, record: Record) -> str:
    """How a validated round stands to the best one."""
    if standing.best is None or record is standing.best:
        better = "" if standing.gain is None else f", {standing.gain:.3f} better than before"
        return f"best so far{better}"
    behind = 0.0 if standing.gain is None else -standing.gain
    return f"{behind:.3f} behind round {standing.best['round']}, the best"
