"""A run while it plays: watched, and known to `ends`, so that a stop says how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, final

from flexlora.cli.ends import ends
from flexlora.cli.output import Output

if TYPE_CHECKING:
    from flexlora.federation.observers import Observer
    from flexlora.runs.events import Event


@contextmanager
def playing(words: Output) -> Iterator[Observer]:
    """The observer of a command's words; from its first event to its result, a run is known."""
    with words.observer() as observer:
        yield _Known(observer)


def may_resume(run: Path) -> None:
    """A stop from here on is told with how to go on with this run."""
    ends.playing = str(run)


@final
class _Known:
    def __init__(self, observer: Observer) -> None:
        self.observer = observer

    def told(self, event: Event) -> None:
        from flexlora.runs.events import Ended, Started

        if ends.stopped is not None:  # A library has swallowed it: nothing more is committed.
            raise KeyboardInterrupt
        if isinstance(event, Started):
            ends.playing = event.run
        self.observer.told(event)
        if isinstance(event, Ended):
            ends.playing = None
