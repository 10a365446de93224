"""What people are shown of a run while it works: a live view, or plain lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from flexlora.cli.console import say, screen
from flexlora.cli.live import LiveView
from flexlora.cli.standing_words import (
    best_words,
    clock,
    event_words,
    score_words,
    state_words,
    time_left,
)
from flexlora.cli.watcher import Watcher
from flexlora.federation.observers import Observer
from flexlora.runs.events import Event, RoundEnded, Scoring
from flexlora.runs.records import RoundRecord
from flexlora.runs.standing import Standing


@contextmanager
def observer() -> Iterator[Observer]:
    """For people: a live view where stdout is a terminal that can be drawn on, lines elsewhere."""
    console = screen()
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines()
        return
    view = LiveView(console)
    view.open()
    try:
        yield view
    finally:
        view.close()


@final
class Lines(Watcher):
    """One plain line per round, for files and pipes."""

    def begin(self) -> None:
        """A line comes with what is worth one."""

    def show(self, event: Event) -> None:
        if isinstance(event, RoundEnded):
            self._say(_line(self.known, event.record))
        elif isinstance(event, Scoring):
            self._say(f"scoring {state_words(event.state)} on unseen examples")
        elif words := event_words(event):
            self._say(words)

    def _say(self, text: str) -> None:
        say(f"{self.known.name}: {text}")


def _line(known: Standing, record: RoundRecord) -> str:
    sparse = " (sparse)" if record.sparse else ""
    parts = [f"round {record.round}/{known.rounds}{sparse}", f"train loss {record.train_loss:.3f}"]
    if scores := score_words(known, record):
        parts.append(f"validation {scores} ({best_words(known, record)})")
    if record.failures:
        parts.append(f"{record.failures} failed")
    if record.attempts > 1:
        parts.append(f"{record.attempts} attempts")
    if record.spare:
        parts.append(f"{len(record.spare)} to spare")
    if record.resting:
        parts.append(f"{len(record.resting)} resting")
    if record.back:
        parts.append(f"{len(record.back)} back")
    parts.append(f"{clock(known.elapsed)} elapsed")
    if left := time_left(known):
        parts.append(left)
    return ", ".join(parts)
