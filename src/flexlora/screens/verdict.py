"""What a screen says of one client."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What becomes of one client's change.

    weight: a factor ≥ 0 on its weight; 0 leaves it out, and `reason` says why. shrink: a factor in
    [0, 1] on the change itself. Raises ValueError for others.
    """

    weight: float = 1.0
    shrink: float = 1.0
    reason: str = ""

    def __post_init__(self) -> None:
        if not (0.0 <= self.weight < math.inf and 0.0 <= self.shrink <= 1.0):
            raise ValueError(f"a verdict of weight {self.weight} and shrink {self.shrink}")
        if self.weight == 0.0 and not self.reason:
            raise ValueError("a verdict leaves a client out without a reason")

    def to_json(self) -> dict[str, Any]:
        """Plain values for a round's record; a reason only where there is one."""
        told: dict[str, Any] = {"weight": self.weight, "shrink": self.shrink}
        return told | ({"reason": self.reason} if self.reason else {})
