"""Observers that show nothing, or that are several."""

from __future__ import annotations

from flexlora.engines.jobs import Failure, Reply
from flexlora.federation.loop import Observer, Record
from flexlora.runs.results import Result
from flexlora.runs.run_directory import Run


class Silent:
    """An observer that shows nothing."""

    def started(self, run: Run) -> None: ...
    def round_started(self, round: int, clients: int) -> None: ...
    def replied(self, outcome: Reply | Failure) -> None: ...
    def round_ended(self, record: Record) -> None: ...
    def scoring(self, state: str) -> None: ...
    def noted(self, text: str) -> None: ...
    def ended(self, result: Result) -> None: ...


class Observers:
    """Several as one; each is told everything, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def started(self, run: Run) -> None:
        for observer in self.observers:
            observer.started(run)

    def round_started(self, round: int, clients: int) -> None:
        for observer in self.observers:
            observer.round_started(round, clients)

    def replied(self, outcome: Reply | Failure) -> None:
        for observer in self.observers:
            observer.replied(outcome)

    def round_ended(self, record: Record) -> None:
        for observer in self.observers:
            observer.round_ended(record)

    def scoring(self, state: str) -> None:
        for observer in self.observers:
            observer.scoring(state)

    def noted(self, text: str) -> None:
        for observer in self.observers:
            observer.noted(text)

    def ended(self, result: Result) -> None:
        for observer in self.observers:
            observer.ended(result)
