"""Who is told what happens in a run, and where it is written down."""

from __future__ import annotations

from typing import Protocol, final

from flexlora.runs.events import Event, Started
from flexlora.runs.run_directory import Run


class Observer(Protocol):
    """Who is told what happens; it cannot change anything.

    The events are those of `flexlora.runs.events`, in the order in which they happen.
    """

    def told(self, event: Event) -> None: ...


class Silent:
    """An observer that shows nothing."""

    def told(self, event: Event) -> None: ...


@final
class Observers:
    """Several as one; each is told everything, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def told(self, event: Event) -> None:
        for observer in self.observers:
            observer.told(event)


@final
class Recorder:
    """Writes every event to the run's events.jsonl, and then tells it to an observer."""

    def __init__(self, run: Run, observer: Observer) -> None:
        self.run = run
        self.observer = observer

    def told(self, event: Event) -> None:
        self.run.append_event(event)
        self.observer.told(event)


def started(run: Run) -> Started:
    """That this run is played from here on."""
    played = run.records()
    return Started(
        run=str(run.folder),
        rule=run.config.rule_name,
        model=run.config.model.name,
        rounds=run.config.federation.rounds,
        round=played[-1].round if played else run.start_round or 0,
        clients=run.resolved.get("clients", {}),
        trackers=tuple(run.config.run.trackers),
    )
