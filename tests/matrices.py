"""Matrices to decompose: awkward sums, small and wide, and matrices of a given spectrum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from flexlora.lowrank import Dense, LowRank, Matrix, Spectrum, Truncation
from reference import dense, gaussian, magnitude

EPS = torch.finfo(torch.float32).eps
NOISE = 64 * EPS
KINDS = ("plain", "deficient", "ties", "grown", "shrunk", "opposed", "denormal", "bf16", "fp16")


@dataclass(frozen=True)
class Case:
    m: int
    n: int
    widths: tuple[int, ...]
    weights: tuple[float, ...]
    kind: str
    seed: int

    def parts(self) -> list[LowRank]:
        return [
            part(self.kind, self.m, self.n, width, self.seed + i)
            for i, width in enumerate(self.widths)
        ]

    def total(self) -> LowRank:
        return LowRank.weighted_sum(self.parts(), self.weights)


def part(kind: str, m: int, n: int, width: int, seed: int) -> LowRank:
    left, right = gaussian(m, width, seed=seed), gaussian(width, n, seed=seed + 500)
    if kind == "deficient" and width > 1:
        left[:, -1] = 2.0 * left[:, 0]
        right[-1] = -right[0]
    if kind == "ties":
        left = torch.eye(m, width)
        right = torch.eye(width, n)
    if kind == "grown":
        left, right = left * 1e15, right * 1e15
    if kind == "shrunk":
        left, right = left * 1e-15, right * 1e-15
    if kind == "opposed":
        scales = torch.tensor([1e15, 1.0, 1e-15])[torch.arange(width) % 3]
        left, right = left * scales, right / scales[:, None]
    if kind == "denormal":
        left, right = left * 1e-40, right * 1e20
    if kind == "bf16":
        left, right = left.bfloat16(), right.bfloat16()
    if kind == "fp16":
        left, right = left.half(), right.half()
    return LowRank(left, right)


@st.composite
def cases(
    draw: st.DrawFn, least: int = 1, most: int = 9, narrowest: int = 0, widest: int = 12
) -> Case:
    sides, widths = st.integers(least, most), st.integers(narrowest, widest)
    count = draw(st.integers(1, 4))
    weight = st.sampled_from([0.0, 1.0, 0.25, -0.5, 3.0])
    return Case(
        m=draw(sides),
        n=draw(sides),
        widths=tuple(draw(st.lists(widths, min_size=count, max_size=count))),
        weights=tuple(draw(st.lists(weight, min_size=count, max_size=count))),
        kind=draw(st.sampled_from(KINDS)),
        seed=draw(st.integers(0, 99)),
    )


def wide_cases() -> st.SearchStrategy[Case]:
    """Large enough that Lanczos has three passes before its basis is half of the shorter side."""
    return cases(130, 180, 40, 90)


def dense_sum(case: Case) -> Tensor:
    total = torch.zeros(case.m, case.n, dtype=torch.float64)
    for matrix, weight in zip(case.parts(), case.weights, strict=True):
        total = total + weight * dense(matrix)
    return total


def exactly(matrix: Matrix) -> Tensor:
    """The matrix in float64."""
    return matrix.matrix.double() if isinstance(matrix, Dense) else dense(matrix)


def noise(matrix: Matrix) -> float:
    """The distance that rounding may make."""
    if isinstance(matrix, Dense):
        return NOISE * max(matrix.magnitude, float(matrix.matrix.double().norm()))
    return NOISE * magnitude(matrix)


def distance(wanted: Tensor, truncation: Truncation) -> float:
    kept = truncation.kept
    return float((wanted - (kept.u.double() * kept.s.double()) @ kept.vh.double()).norm())


def skew(spectrum: Spectrum) -> float:
    """How far u and vh are from orthonormal."""
    one = torch.eye(spectrum.rank)
    u, vh = spectrum.u.double(), spectrum.vh.double()
    return max(float((u.T @ u - one).norm()), float((vh @ vh.T - one).norm()))


def with_values(m: int, n: int, values: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A float64 matrix of these singular values (k,), and its right singular vectors (k, n)."""
    k = len(values)
    left = torch.linalg.qr(gaussian(m, k, seed=seed).double()).Q
    right = torch.linalg.qr(gaussian(n, k, seed=seed + 1).double()).Q.T
    return (left * values.double()) @ right, right


def in_factors(matrix: Tensor, width: int, dtype: torch.dtype = torch.float32) -> LowRank:
    """The same matrix (m, n) in factors of inner width ≥ n, to rounding."""
    turned = torch.linalg.qr(gaussian(width, matrix.shape[1], seed=7).double()).Q
    return LowRank((matrix @ turned.T).to(dtype), turned.to(dtype))


# Singular values as functions of j = i / rank, i = 1, 2, … and `rank` of them being asked for.
SPECTRA: dict[str, Callable[[Tensor], Tensor]] = {
    "fast": lambda j: 10.0 ** (-2.0 * j),
    "slow": lambda j: j**-0.5,
    "flat": torch.ones_like,
    "gap": lambda j: torch.where(j <= 1.0, 1.0, 0.1) * (1.0 - 0.01 * j),
    "gap of ties": lambda j: torch.where(j <= 1.0, 1.0, 0.1),
    "tiny tail": lambda j: torch.where(j <= 1.0, 10.0 ** (-4.5 * j), 1e-5),
    "this rank": lambda j: torch.where(j <= 1.0, 1.0 / j, 0.0),
    "less": lambda j: torch.where(j <= 0.6, 1.0 / j, 0.0),
    "zero": torch.zeros_like,
}


def values_of(spectrum: str, count: int, rank: int) -> Tensor:
    return SPECTRA[spectrum](torch.arange(1, count + 1).double() / rank)
