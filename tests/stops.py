"""An observer that ends a process's part of a run."""

from __future__ import annotations

from typing import final

from flexlora.runs.events import Event, RoundEnded


@final
class StopsAfter:
    """As Ctrl-C does, as soon as this round is committed."""

    def __init__(self, round: int) -> None:
        self.round = round

    def told(self, event: Event) -> None:
        if isinstance(event, RoundEnded) and event.record.round == self.round:
            raise KeyboardInterrupt
