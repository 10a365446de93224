"""How far a run has come: its best validation, and how long ago that was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flexlora.formats.json_fields import number, numbers, whole
from flexlora.formats.words import count


@dataclass(frozen=True)
class Progress:
    """The best validation so far (lower is better), its round, and how many came without gain.

    levels: where the clients decide, how far each stands from what they come to; see
    `federation.levels`.
    """

    best: float = math.inf
    best_round: int = 0
    stale: int = 0
    levels: Mapping[str, float] = field(default_factory=dict)

    def after(self, round: int, value: float) -> Progress:
        """NaN is no gain."""
        if value < self.best:
            return replace(self, best=value, best_round=round, stale=0)
        return replace(self, stale=self.stale + 1)

    def exhausted(self, patience: int) -> str:
        """Why a run ends before its last round, after so many validations without gain (0: never);
        "" where it does not."""
        if not 0 < patience <= self.stale:
            return ""
        than = f"nothing better than round {self.best_round}" if self.best_round else "no number"
        return f"{than} for {count(patience, 'validated round')} (federation.patience)"

    def to_json(self) -> dict[str, Any]:
        # JSON has no infinity: null is that of no best yet, or, of a round, one beyond all others.
        found = asdict(self) | {"best": self.best if math.isfinite(self.best) else None}
        if not self.levels:
            del found["levels"]
        return found

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Progress:
        """Raises ValueError naming an entry that is missing or wrong."""
        best, best_round = number(data, "best"), whole(data, "best_round")
        if math.isnan(best):
            best = -math.inf if best_round else math.inf
        levels = numbers(data, "levels") if "levels" in data else {}
        if not all(map(math.isfinite, levels.values())):
            raise ValueError("levels has one that is no finite number")
        return Progress(best, best_round, whole(data, "stale"), levels)
