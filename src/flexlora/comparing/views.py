"""Arms under one budget: at equal rounds, equal bytes, equal training tokens, and equal simulated
time where clients have devices; and at what cost a value is reached. On validation examples, which
are scored as training goes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flexlora.comparing.table import OWN_RANK, VALIDATION, Tidy
from flexlora.runs.results import FULL

By = Literal["rounds", "bytes", "tokens", "simulated"]
VIEWS: tuple[By, ...] = ("rounds", "bytes", "tokens", "simulated")


@dataclass(frozen=True)
class Cost:
    """What was spent up to a point: rounds played, bytes both ways, tokens trained on, and seconds
    on the clients' devices (0 where they have none)."""

    rounds: int
    bytes: int
    tokens: int
    simulated: float = 0.0

    def by(self, view: By) -> float:
        found: float = getattr(self, view)
        return found


@dataclass(frozen=True)
class Point:
    """A value and what was spent until it was scored."""

    cost: Cost
    value: float


@dataclass(frozen=True)
class Curve:
    """One cell: its scored rounds in order, those with a finite value; and its whole cost."""

    points: tuple[Point, ...]
    total: Cost

    def within(self, view: By, budget: float) -> float | None:
        """The value at the last scored round that the budget pays for; None where it pays none."""
        paid = [point.value for point in self.points if point.cost.by(view) <= budget]
        return paid[-1] if paid else None

    def reaching(self, target: float, *, higher_is_better: bool) -> Cost | None:
        """What was spent until a scored round was first as good as this; None if none ever was."""
        for point in self.points:
            if point.value >= target if higher_is_better else point.value <= target:
                return point.cost
        return None


Curves = Mapping[str, Mapping[int, Curve]]  # Arm → seed → its curve.


def curves(tidy: Tidy, metric: str) -> dict[str, dict[int, Curve]]:
    """Of the server's validation; where it has none, of what the clients scored at their own rank.

    Arms without any are left out.
    """
    points: dict[tuple[str, int, str], list[Point]] = {}
    totals: dict[tuple[str, int], Cost] = {}
    for row in tidy.rows:
        if row.clients or row.category or row.final:
            continue
        cost = Cost(row.round, row.bytes, row.tokens, row.simulated)
        if cost.rounds >= totals.get((row.arm, row.seed), cost).rounds:
            totals[row.arm, row.seed] = cost
        if row.part == VALIDATION and row.metric == metric and math.isfinite(row.value):
            points.setdefault((row.arm, row.seed, row.state), []).append(Point(cost, row.value))
    found: dict[str, dict[int, Curve]] = {}
    for (arm, seed), total in totals.items():
        state = FULL if (arm, seed, FULL) in points else OWN_RANK
        if scored := points.get((arm, seed, state)):
            found.setdefault(arm, {})[seed] = Curve(tuple(scored), total)
    return found


def timed(curves: Curves) -> set[str]:
    """The arms all of whose cells have simulated time."""
    return {
        arm for arm, seeds in curves.items() if all(x.total.simulated > 0 for x in seeds.values())
    }


def budget(curves: Curves, view: By, setting: Collection[str]) -> float | None:
    """The smallest total of all cells of the arms that set it, so that each of these can have
    spent it; None without any."""
    totals = [
        curve.total.by(view)
        for arm, seeds in curves.items()
        if arm in setting
        for curve in seeds.values()
    ]
    return min(totals, default=None)


def under(curves: Curves, view: By, budget: float) -> dict[str, dict[int, float]]:
    """Arm → seed → what the cell came to under this budget, where it pays for a scored round."""
    return {
        arm: {
            seed: value
            for seed, curve in seeds.items()
            if (value := curve.within(view, budget)) is not None
        }
        for arm, seeds in curves.items()
    }


def costs(
    curves: Curves, target: float, *, higher_is_better: bool
) -> dict[str, tuple[Sequence[Cost], int]]:
    """Arm → what its cells spent until they reached the target, those that did; and of how many."""
    return {
        arm: (
            [
                cost
                for curve in seeds.values()
                if (cost := curve.reaching(target, higher_is_better=higher_is_better)) is not None
            ],
            len(seeds),
        )
        for arm, seeds in curves.items()
    }
