"""The largest singular triplets of a wide sum, by block Lanczos from the last round's directions.

Golub, Luk and Overton (ACM TOMS 7, 1981), with full reorthogonalisation of the left basis: every
pass multiplies by the matrix and by its transpose, and everything found so far stays in the basis,
which converges in half the passes of subspace iteration (Musco and Musco, NeurIPS 2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flexlora.lowrank.gram import gram
from flexlora.lowrank.spectrum import Spectrum

PROBES = 10
FAILURE = 1e-3  # Of a spectral bound from so many probes.
_FRESH = 8  # Random columns in every start: no direction can hide from the last round's.
_BLOCK = 0.4  # Of the rank: narrower blocks need fewer columns in all, wider ones fewer passes.
_NARROWEST = 16
_DEPENDENT = 1e-4  # A column this near to the span of the others is taken out with care.
_TINY = 2.0**-40  # Products below it, and above its inverse, want scaling first.
_RESIDUAL = 100.0  # Times the tolerance: what a residual must have fallen below as well.
_LEAST_RATIO = 0.05  # Of the next gain to the last: extrapolation is not trusted below it.
_LEAST_SQUARE = 1e-11  # Of the largest: below it directions are rounding, which QR sorts out.


@dataclass(frozen=True, eq=False)
class Operator:
    """A matrix (m, n) known by its products: `ahead` takes (n, k) to (m, k), `back` returns."""

    ahead: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    shape: tuple[int, int]
    like: Tensor  # Of the dtype and device that the products have.


@dataclass(frozen=True, eq=False)
class Found:
    """`rank` triplets that settled, and what Gaussian probes say of the rest.

    energy: unbiased estimate of ‖matrix − spectrum‖²_F; spectral: bound of its largest singular
    value, which fails with probability `FAILURE`; passes: products with the matrix and back.
    """

    spectrum: Spectrum
    energy: float
    spectral: float
    passes: int


def block_width(rank: int) -> int:
    """Columns that one pass multiplies."""
    return max(_NARROWEST, math.ceil(_BLOCK * rank))


def lanczos(
    matrix: Operator,
    rank: int,
    generator: torch.Generator,
    start: Float[Tensor, "k n"] | None = None,
    *,
    tolerance: float,
    largest_basis: int,
) -> Found | None:
    """The `rank` largest triplets; None where they did not settle within `largest_basis` columns.

    start: right singular vectors of a matrix nearby, largest first (any number; None: random).
    tolerance: the distance of the result from the matrix is to exceed the best possible one by no
    more than this share. Settled means: the captured energy still missing, extrapolated from the
    last three passes, is below that, so are the Ritz residuals, with a margin, and a last look at
    what random directions leave over gains no more (more equal singular values than a block has
    columns look settled without it). Raises ArithmeticError where the products are not finite, or
    near the end of the dtype's range.
    """
    width = block_width(rank)
    probes = _gaussian(matrix.shape[1], PROBES, generator, matrix.like)
    x = _filled(_first(matrix.shape[1], width, generator, start, matrix.like), generator)
    seen = matrix.ahead(torch.cat([x, probes], dim=1))
    largest = float(seen.abs().max())
    if not _TINY < largest < 1.0 / _TINY:
        raise ArithmeticError(f"products of size {largest}")
    y, probed = seen[:, :width], seen[:, width:]
    basis, ritz, energies, residual = _Basis.empty(matrix), None, list[float](), math.inf
    for passes in range(1, largest_basis // width + 1):
        y = basis.outside(y)
        if ritz is not None:
            residual = ritz.residual(y, x, basis.back[:, -width:])
        basis = basis.extended(y)
        z = basis.back[:, -width:].to(x.dtype)
        if basis.columns >= 2 * rank - width // 2:
            ritz = _Ritz(basis.squared, rank)
            energies.append(ritz.energy)
            left_over = basis.outside(probed)
            allowed = 2.0 * tolerance * (_energy(left_over) + ritz.beyond)
            if _missing(energies) <= allowed and residual**2 <= _RESIDUAL * allowed:
                if ritz.lacks_rank:
                    return None
                looked = basis.extended(left_over)
                gain = _Ritz(looked.squared, rank).energy - ritz.energy
                if gain * max(1.0, rank / PROBES) <= allowed:  # Few directions stand for many.
                    return _found(ritz, basis, probes, probed, passes)
                # Something was hidden: go on from where it showed, and judge anew.
                basis, ritz, residual = looked, None, math.inf
                energies.clear()
                probes = _gaussian(matrix.shape[1], PROBES, generator, matrix.like)
                probed = matrix.ahead(probes)
                shown = basis.back[:, -PROBES:].to(x.dtype)
                fresh = _gaussian(matrix.shape[1], width - PROBES, generator, matrix.like)
                x = _filled(torch.cat([shown, fresh], dim=1), generator)
                y = matrix.ahead(x)
                continue
        # Only what the last block did not hold is new; the left basis takes care of the rest.
        x = _orthonormal(z - x @ (x.T @ z))
        y = matrix.ahead(x)
    return None


@dataclass(frozen=True, eq=False)
class _Basis:
    """Orthonormal columns `left` (m, q), `back` = matrixᵀ left in float64, `squared` = backᵀ back.

    Columns that depended on others are zero in both.
    """

    matrix: Operator
    left: Tensor
    back: Tensor
    squared: Tensor

    @staticmethod
    def empty(matrix: Operator) -> _Basis:
        (m, n), like = matrix.shape, matrix.like
        back = like.new_zeros(n, 0, dtype=torch.float64)
        return _Basis(matrix, like.new_zeros(m, 0), back, back.new_zeros(0, 0))

    @property
    def columns(self) -> int:
        return self.left.shape[1]

    def outside(self, y: Tensor) -> Tensor:
        """The part of y that is orthogonal to this basis, once: twice is enough."""
        return y - self.left @ (self.left.T @ y)

    def extended(self, y: Tensor) -> _Basis:
        """The basis with the directions of y, which is `outside` it but for rounding."""
        y = _orthonormal(self.outside(_orthonormal(y)))
        back = self.matrix.back(y).double()
        across = self.back.T @ back
        squared = torch.cat(
            [
                torch.cat([self.squared, across], dim=1),
                torch.cat([across.T, back.T @ back], dim=1),
            ]
        )
        left, right = torch.cat([self.left, y], dim=1), torch.cat([self.back, back], dim=1)
        return _Basis(self.matrix, left, right, squared)


class _Ritz:
    """The best triplets that a basis holds, from the Gram matrix of matrixᵀ · basis."""

    def __init__(self, squared: Float[Tensor, "q q"], rank: int) -> None:
        squares, turns = torch.linalg.eigh(squared)
        squares = squares.flip(0).clamp_min(0.0)
        keep = min(rank, int((squares > 0.0).sum()))
        self.lacks_rank = keep == 0 or float(squares[keep - 1]) < _LEAST_SQUARE * float(squares[0])
        self.values = squares[:keep].sqrt()
        self.turns = turns.flip(1)[:, :keep]
        self.energy = float(squares[:keep].sum())
        self.beyond = float(squares[keep:].sum())

    def residual(self, y: Tensor, x: Tensor, last: Tensor) -> float:
        """‖matrix V − U Σ‖_F, from the next product y = (I − QQᵀ) matrix x of the new block x."""
        width = last.shape[1]
        share = (x.T.double() @ last) @ (self.turns[-width:] / self.values)
        return float((y @ share.to(y.dtype)).double().norm())


def _found(ritz: _Ritz, basis: _Basis, probes: Tensor, probed: Tensor, passes: int) -> Found:
    u = basis.left @ ritz.turns.to(probed.dtype)
    v = (basis.back @ (ritz.turns / ritz.values)).to(probed.dtype)
    s = ritz.values.to(probed.dtype)
    rest = probed - (u * s) @ (v.T @ probes)
    lengths = rest.double().norm(dim=0)
    # Halko, Martinsson and Tropp (SIAM Review 53, 2011), Lemma 4.1: ‖B‖ ≤ α √(2/π) max ‖B ω_i‖
    # but for a probability of α to the power of −probes.
    alpha = FAILURE ** (-1.0 / PROBES)
    return Found(
        Spectrum(u.contiguous(), s, v.T.contiguous()),
        energy=_energy(rest),
        spectral=alpha * math.sqrt(2.0 / math.pi) * float(lengths.max()),
        passes=passes,
    )


def _missing(energies: list[float]) -> float:
    """Energy still to come, if gains go on shrinking as they did last."""
    if len(energies) < 3:
        return math.inf
    before, last = energies[-2] - energies[-3], energies[-1] - energies[-2]
    if last <= 0.0:
        return 0.0
    ratio = last / before if before > 0.0 else 1.0
    return last * max(_LEAST_RATIO, ratio / (1.0 - ratio)) if ratio < 1.0 else math.inf


def _energy(probed: Tensor) -> float:
    """Unbiased estimate of ‖B‖²_F from B times Gaussian probes."""
    return float(probed.double().square().sum()) / PROBES


def _first(
    n: int, width: int, generator: torch.Generator, start: Tensor | None, like: Tensor
) -> Tensor:
    if start is None:
        return _gaussian(n, width, generator, like)
    known = start[: width - _FRESH].T.to(like)
    return torch.cat([known, _gaussian(n, width - known.shape[1], generator, like)], dim=1)


def _filled(tall: Tensor, generator: torch.Generator) -> Tensor:
    """`_orthonormal`, with random columns in place of those that depended on others."""
    found = _orthonormal(tall)
    live = found.square().sum(dim=0) > 0.0
    lost = int((~live).sum())
    if not lost:
        return found
    kept, fresh = found[:, live], _gaussian(tall.shape[0], lost, generator, tall)
    return _orthonormal(torch.cat([kept, _orthonormal(fresh - kept @ (kept.T @ fresh))], dim=1))


def _gaussian(n: int, k: int, generator: torch.Generator, like: Tensor) -> Tensor:
    drawn = torch.randn(n, k, generator=generator, dtype=like.dtype)
    return drawn.to(like.device)


def _orthonormal(tall: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
    """Orthonormal columns of the same span; zero columns in place of those that depend on others.

    Cholesky of the float64 Gram matrix, or its eigenvectors where columns are nearly dependent
    (Stathopoulos and Wu, SIAM J. Sci. Comput. 23, 2002).
    """
    squared = gram(tall)
    lengths = squared.diagonal().sqrt()
    scale = torch.where(lengths > 0.0, 1.0 / lengths, 0.0)
    squared = scale[:, None] * squared * scale
    root, failed = torch.linalg.cholesky_ex(squared)
    if not int(failed) and float(root.diagonal().min()) > _DEPENDENT:
        identity = torch.eye(len(scale), dtype=root.dtype, device=root.device)
        turns = torch.linalg.solve_triangular(root, identity, upper=False).T
    else:
        squares, turns = torch.linalg.eigh(squared)
        real = squares > _DEPENDENT**2 * squares[-1]
        turns = turns * torch.where(real, squares.clamp_min(0.0).rsqrt(), 0.0)
    change: Tensor = scale[:, None] * turns
    return tall @ change.to(tall.dtype)
