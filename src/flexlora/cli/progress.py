"""What people are shown of a run while it works: a live view, or plain lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from flexlora.cli.live import LiveView
from flexlora.cli.standing import (
    Standing,
    best_words,
    clock,
    score_words,
    state_words,
    time_left,
)
from flexlora.engines.jobs import Failure, Reply
from flexlora.federation.loop import Observer, Record
from flexlora.runs.results import Result
from flexlora.runs.run_directory import Run


@contextmanager
def observer() -> Iterator[Observer]:
    """For people: a live view where stdout is a terminal that can be drawn on, lines elsewhere."""
    # The file is named: while a tracker works, sys.stdout is not the terminal.
    console = Console(file=sys.stdout)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines()
        return
    view = LiveView(console)
    try:
        yield view
    finally:
        view.close()


class Lines:
    """One plain line per round, for files and pipes."""

    def __init__(self) -> None:
        self.standing: Standing | None = None

    def started(self, run: Run) -> None:
        self.standing = Standing(run)

    def round_started(self, round: int, clients: int) -> None:
        self._known.started_round(round, clients)

    def replied(self, outcome: Reply | Failure) -> None:
        self._known.outcome(outcome)
        if isinstance(outcome, Failure):
            self._say(f"client {outcome.client} left out: {outcome.reason}")

    def round_ended(self, record: Record) -> None:
        known = self._known
        known.ended_round(record)
        parts = [
            f"round {record['round']}/{known.rounds}",
            f"train loss {record['train_loss']:.3f}",
        ]
        if scores := score_words(known, record):
            parts.append(f"validation {scores} ({best_words(known, record)})")
        if record["failures"]:
            parts.append(f"{record['failures']} failed")
        parts.append(f"{clock(known.elapsed)} elapsed")
        if left := time_left(known):
            parts.append(left)
        self._say(", ".join(parts))

    def scoring(self, state: str) -> None:
        self._say(f"scoring {state_words(state)} on unseen clients")

    def noted(self, text: str) -> None:
        self._say(text)

    def ended(self, result: Result) -> None: ...

    @property
    def _known(self) -> Standing:
        assert self.standing is not None
        return self.standing

    def _say(self, text: str) -> None:
        print(f"{self._known.name}: {text}", flush=True)
