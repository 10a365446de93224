"""By what clients weigh, where a rule has no measure of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from flexlora.rules.weights import Summary, normalised

Weighing = Literal["examples", "uniform"]

_MEASURES: dict[Weighing, Callable[[Summary], float]] = {
    "examples": lambda s: float(s.examples),
    "uniform": lambda _: 1.0,
}


def weighed_by(weighing: Weighing, summaries: Sequence[Summary]) -> dict[str, float]:
    """Client → weight, summing to 1. Raises RoundError where all are zero."""
    return normalised({s.client: _MEASURES[weighing](s) for s in summaries})
