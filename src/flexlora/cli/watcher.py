"""What shows a run to people: it knows how the run stands from its first event on."""

from __future__ import annotations

import abc

from flexlora.runs.events import Event, Started
from flexlora.runs.run_directory import Run
from flexlora.runs.standing import Standing


class Watcher(abc.ABC):
    """An observer of one run. A subclass says what each event shows."""

    def __init__(self) -> None:
        self.standing: Standing | None = None

    def told(self, event: Event) -> None:
        if isinstance(event, Started):
            self.standing = Standing(Run.open(event.run))
            self.begin()
        self.known.told(event)
        self.show(event)

    @property
    def known(self) -> Standing:
        """How the run stands."""
        assert self.standing is not None
        return self.standing

    @abc.abstractmethod
    def begin(self) -> None:
        """The run is known, and its first event is told next."""

    @abc.abstractmethod
    def show(self, event: Event) -> None:
        """This event is told; what is `known` has it."""
