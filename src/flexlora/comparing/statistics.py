"""Means over seeds with their intervals, differences paired by seed, and what chance would do.

Pure functions of finite numbers. A seed is the unit: its data, sampling and initial adapters are
the same for all arms, so that arms are compared within it. `clustered` alone takes the seeds as
given, and the clients or tasks that were scored as the unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

EXACT = 20  # Seeds up to which all sign flips are counted.
DRAWN = 1 << 18  # Sign flips that are drawn where there are more.
_CHUNK = 1 << 14
_TIE = 1e-12  # Two sums of the same numbers in another order differ by less, of the sum of sizes.


@dataclass(frozen=True)
class Interval:
    """The mean of n values; half: of its two-sided t interval's width, None for one value."""

    mean: float
    half: float | None
    n: int

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half


@dataclass(frozen=True)
class P:
    """Of a two-sided paired permutation test. flips: sign flips counted; exact: whether all."""

    value: float
    flips: int
    exact: bool


def interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Mean ± t · s/√n with n − 1 degrees of freedom; None for no values."""
    n = len(values)
    if not n:
        return None
    if n == 1:
        return Interval(values[0], None, 1)
    half = t_quantile(0.5 + level / 2, n - 1) * stdev(values) / math.sqrt(n)
    return Interval(fmean(values), half, n)


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """one − other on the seeds that both have, in order of the seeds."""
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def clustered(
    differences: Sequence[Mapping[str, tuple[float, float]]], level: float = 0.95
) -> Interval | None:
    """The same difference as by seed, with the interval that other tasks would leave, not other
    seeds: all seeds of a task are one cluster.

    differences: of each seed, task → (its share of the examples, the difference on it); shares of a
    seed add up to 1. The variance of the mean is G/(G − 1) · Σ over tasks of the square of their
    summed, weighted residuals (Cameron & Miller 2015, CR1 of a mean), t has G − 1 degrees of
    freedom; where every seed has the same tasks at equal shares, that is the t interval of the
    tasks' means over seeds. n: G. None for no seeds.
    """
    if not differences:
        return None
    mean = fmean(math.fsum(w * x for w, x in of.values()) for of in differences)
    residuals: dict[str, float] = {}
    for of in differences:
        for task, (share, value) in of.items():
            residual = share * (value - mean) / len(differences)
            residuals[task] = residuals.get(task, 0.0) + residual
    n = len(residuals)
    if n == 1:
        return Interval(mean, None, 1)
    squares = math.fsum(x * x for x in residuals.values())
    half = t_quantile(0.5 + level / 2, n - 1) * math.sqrt(squares * n / (n - 1))
    return Interval(mean, half, n)


def permutation_test(differences: Sequence[float], seed: int = 0) -> P | None:
    """How often a mean at least as far from 0 comes of these differences with random signs.

    Under the hypothesis that the arms are exchangeable within each seed. Of at most `EXACT`
    differences all 2ⁿ sign flips are counted, so p is at least 2/2ⁿ; of more, `DRAWN` flips drawn
    with this seed, the one observed counted among them (Phipson & Smyth 2010, (b + 1)/(m + 1)).
    None for no differences.
    """
    n = len(differences)
    if not n:
        return None
    values = np.abs(np.array(differences, dtype=np.float64))
    observed = abs(math.fsum(differences)) - _TIE * float(values.sum())
    if n <= EXACT:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate((sums + value, sums - value))
        return P(int((np.abs(sums) >= observed).sum()) / 2**n, 2**n, True)
    draw = np.random.default_rng(seed)
    hits = 0
    for _ in range(0, DRAWN, _CHUNK):
        signs = draw.integers(0, 2, size=(_CHUNK, n), dtype=np.int8) * 2.0 - 1.0
        hits += int((np.abs(signs @ values) >= observed).sum())
    return P((hits + 1) / (DRAWN + 1), DRAWN, False)


def holm(ps: Sequence[float]) -> list[float]:
    """Each p corrected for all of these (Holm 1979): none is below its own, order is kept, and
    rejecting those at most α errs at all with probability at most α."""
    corrected = [0.0] * len(ps)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[index]))
        corrected[index] = highest
    return corrected


def t_quantile(p: float, df: int) -> float:
    """t with P(T ≤ t) = p of Student's distribution, 0.5 < p < 1, to about 12 digits."""
    assert 0.5 < p < 1.0
    assert df >= 1
    low, high = 0.0, 1.0
    while _central(high, df) < 2 * p - 1:
        low, high = high, 2 * high
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _central(middle, df) < 2 * p - 1 else (low, middle)
    return high


def _central(t: float, df: int) -> float:
    """P(|T| ≤ t), in closed form for whole degrees of freedom (Abramowitz & Stegun 26.7.3/4)."""
    angle = math.atan2(t, math.sqrt(df))
    square = math.cos(angle) ** 2
    odd = df % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(2 if odd else 1, df - 1, 2):
        term *= square * k / (k + 1)
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if df > 1 else 0.0))
