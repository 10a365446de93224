"""tuned.json: which learning rate every arm has, and what was seen at all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flexlora.errors import RunError
from flexlora.formats.atomic import atomic_write
from flexlora.formats.json_text import json_text
from flexlora.runs.files import UNREADABLE, damaged, read_table

FILE = "tuned.json"
MOST_STEPS = 3  # By which the grid grows, each way.

# Arm → rate → what was seen there on each tuning seed; None where training broke down.
Seen = Mapping[str, Mapping[float, Sequence[float | None]]]


@dataclass(frozen=True)
class Grid:
    """The rates, rising; below, above: how many of them it has grown by each way."""

    rates: tuple[float, ...]
    below: int = 0
    above: int = 0

    def grown(self, *, below: bool, above: bool) -> Grid:
        """By one rate each way that is asked for, by the grid's own factor there, at most
        `MOST_STEPS` times; itself where it grows no more."""
        grid = self
        if below and self.below < MOST_STEPS:
            first, second = self.rates[:2]
            lower = _round(first * first / second)
            grid = replace(grid, rates=(lower, *grid.rates), below=self.below + 1)
        if above and self.above < MOST_STEPS:
            before, last = self.rates[-2:]
            grid = replace(grid, rates=(*grid.rates, _round(last * last / before)))
            grid = replace(grid, above=self.above + 1)
        return grid


@dataclass(frozen=True)
class Tuned:
    """rates: arm → the best of the grid, None for an arm that broke down at each; seen: all."""

    metric: str
    grid: Grid
    seen: Seen
    rates: Mapping[str, float | None]

    def write(self, out: Path) -> None:
        atomic_write(out / FILE, json_text(self.to_json(), indent=2) + "\n")

    def to_json(self) -> dict[str, Any]:
        arms = {}
        for name, by_rate in self.seen.items():
            best = self.rates[name]
            arms[name] = {
                "rate": best,
                "at_edge": best in (self.grid.rates[0], self.grid.rates[-1]),
                "seen": {repr(rate): list(values) for rate, values in by_rate.items()},
            }
        return {
            "metric": self.metric,
            "part": "validation",
            "rates": list(self.grid.rates),
            "extended": {"below": self.grid.below, "above": self.grid.above},
            "arms": arms,
        }


def read_tuned(out: Path) -> Tuned | None:
    """None where nothing is tuned yet. Raises RunError for a damaged file."""
    path = out / FILE
    if not path.is_file():
        return None
    record = read_table(path)
    try:
        grown = record["extended"]
        arms = record["arms"]
        return Tuned(
            metric=str(record["metric"]),
            grid=Grid(tuple(map(float, record["rates"])), int(grown["below"]), int(grown["above"])),
            seen={
                name: {float(rate): tuple(values) for rate, values in arm["seen"].items()}
                for name, arm in arms.items()
            },
            rates={name: _rate(arm["rate"]) for name, arm in arms.items()},
        )
    except UNREADABLE as error:
        raise damaged(path, error) from error


def best_rate(
    by_rate: Mapping[float, Sequence[float | None]], *, higher_is_better: bool
) -> float | None:
    """The rate of the best mean over the tuning seeds, the lower of two that are equal.

    None where no rate has a value on every seed.
    """
    means = {
        rate: sum(known) / len(known)
        for rate, values in sorted(by_rate.items())
        if len(known := [value for value in values if value is not None]) == len(values) and known
    }
    if not means:
        return None
    return (
        max(means, key=means.__getitem__) if higher_is_better else min(means, key=means.__getitem__)
    )


def next_grid(grid: Grid, rates: Mapping[str, float | None]) -> Grid:
    """The grid after all arms were seen on it: grown where the best of any lies at its edge."""
    best = set(rates.values())
    return grid.grown(below=grid.rates[0] in best, above=grid.rates[-1] in best)


def rate_of(out: Path, tuned: Tuned | None, arm: str) -> float:
    """That of an arm's cells. Raises RunError where it has none."""
    found = None if tuned is None else tuned.rates.get(arm)
    if found is None:
        raise RunError(
            f"no learning rate of arm {arm!r} in {out / FILE} trained to the end; name lower rates"
        )
    return found


def _round(rate: float) -> float:
    """To three digits: a rate that one can write."""
    return float(f"{rate:.3g}")


def _rate(value: Any) -> float | None:
    return None if value is None else float(value)
