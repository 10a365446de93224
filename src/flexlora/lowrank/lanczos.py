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
_LEAST_RATIO = 0.05  # Of the next gain to the last: extrapolation is not trusted below it,
_LARGEST_RATIO = 0.95  # nor where gains do not shrink.
_ROUNDING = 2.0  # Of products, in eps of the largest value: gains below it are none.
_NEVER_ZERO = 1e-300
_LEAST_SQUARE = 1e-11  # Of the largest: below it directions are rounding, which QR sorts out.


@dataclass(frozen=True, eq=False)
class Operator:
    """A matrix (m, n) known by its products: `ahead` takes (n, k) to (m, k), `back` returns.

    Or a batch of them: everything then has a leading axis.
    """

    ahead: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
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
    start: Tensor | None = None,
    *,
    tolerance: float,
    largest_basis: int,
) -> list[Found] | None:
    """The `rank` largest triplets of each matrix of the batch (of the one, without a batch axis).

    None where they did not settle within `largest_basis` columns, for all of the batch.
    start: (…, k, n) right singular vectors of a matrix nearby, largest first (any k; None: random).
    tolerance: the distance of the result from the matrix is to exceed the best possible one by no
    more than this share. Settled means: the captured energy still missing, extrapolated from the
    last three passes, is below that, so are the Ritz residuals, with a margin, and a last look at
    what random directions leave over gains no more (more equal singular values than a block has
    columns look settled without it). Raises ArithmeticError where the products are not finite, or
    near the end of the dtype's range.
    """
    width, n = block_width(rank), matrix.shape[-1]
    batch = matrix.shape[:-2]
    probes = _gaussian((*batch, n, PROBES), generator, matrix.like)
    x = _filled(_first((*batch, n, width), generator, start, matrix.like), generator)
    seen = matrix.ahead(torch.cat([x, probes], dim=-1))
    sizes = seen.abs().amax(dim=(-2, -1))
    if not _TINY < float(sizes.min()) <= float(sizes.max()) < 1.0 / _TINY:
        raise ArithmeticError(f"products of size {float(sizes.min())} to {float(sizes.max())}")
    y, probed = seen[..., :width], seen[..., width:]
    basis, ritz, energies, residual = _Basis.empty(matrix), None, list[Tensor](), sizes + math.inf
    for passes in range(1, largest_basis // width + 1):
        y = basis.outside(y)
        if ritz is not None:
            residual = ritz.residual(y, x, basis.back[..., -width:])
        basis = basis.extended(y)
        z = basis.back[..., -width:].to(x.dtype)
        if basis.columns >= 2 * rank - width // 2:
            ritz = _Ritz(basis.squared, rank)
            energies.append(ritz.energy)
            left_over = basis.outside(probed)
            allowed = 2.0 * tolerance * (_energy(left_over) + ritz.beyond)
            allowed += width * (_ROUNDING * torch.finfo(x.dtype).eps * ritz.values[..., 0]) ** 2
            still = residual.double().square() <= _RESIDUAL * allowed
            if bool((still & (_missing(energies) <= allowed)).all()):
                if ritz.lacks_rank:
                    return None
                looked = basis.extended(left_over)
                values = torch.linalg.eigvalsh(looked.squared)[..., -rank:]
                gain = values.clamp_min(0.0).sum(dim=-1) - ritz.energy
                # Few directions stand for many.
                if bool((gain * max(1.0, rank / PROBES) <= allowed).all()):
                    return _found(ritz, basis, probes, probed, passes)
                # Something was hidden: go on from where it showed, and judge anew.
                basis, ritz, residual = looked, None, sizes + math.inf
                energies.clear()
                probes = _gaussian((*batch, n, PROBES), generator, matrix.like)
                probed = matrix.ahead(probes)
                shown = basis.back[..., -PROBES:].to(x.dtype)
                fresh = _gaussian((*batch, n, width - PROBES), generator, matrix.like)
                x = _filled(torch.cat([shown, fresh], dim=-1), generator)
                y = matrix.ahead(x)
                continue
        # Only what the last block did not hold is new; the left basis takes care of the rest.
        x = _orthonormal(z - x @ (x.mT @ z))
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
        (*batch, m, n), like = matrix.shape, matrix.like
        back = like.new_zeros(*batch, n, 0, dtype=torch.float64)
        left = like.new_zeros(*batch, m, 0)
        return _Basis(matrix, left, back, back.new_zeros(*batch, 0, 0))

    @property
    def columns(self) -> int:
        return self.left.shape[-1]

    def outside(self, y: Tensor) -> Tensor:
        """The part of y that is orthogonal to this basis, once: twice is enough."""
        return y - self.left @ (self.left.mT @ y)

    def extended(self, y: Tensor) -> _Basis:
        """The basis with the directions of y, which is `outside` it but for rounding."""
        y = _orthonormal(self.outside(_orthonormal(y)))
        back = self.matrix.back(y).double()
        across = self.back.mT @ back
        squared = torch.cat(
            [
                torch.cat([self.squared, across], dim=-1),
                torch.cat([across.mT, back.mT @ back], dim=-1),
            ],
            dim=-2,
        )
        left, right = torch.cat([self.left, y], dim=-1), torch.cat([self.back, back], dim=-1)
        return _Basis(self.matrix, left, right, squared)


class _Ritz:
    """The best triplets that a basis holds, from the Gram matrix of matrixᵀ · basis."""

    def __init__(self, squared: Tensor, rank: int) -> None:
        squares, turns = torch.linalg.eigh(squared)
        squares = squares.flip(-1).clamp_min(0.0)
        kept = squares[..., :rank]
        self.lacks_rank = bool((kept[..., -1] <= _LEAST_SQUARE * kept[..., 0]).any())
        self.values = kept.sqrt()
        self.turns = turns.flip(-1)[..., :rank]
        self.per_value = self.turns / self.values[..., None, :].clamp_min(_NEVER_ZERO)
        self.energy = kept.sum(dim=-1)
        self.beyond = squares[..., rank:].sum(dim=-1)

    def residual(self, y: Tensor, x: Tensor, last: Tensor) -> Tensor:
        """‖matrix V − U Σ‖_F, from the next product y = (I − QQᵀ) matrix x of the new block x."""
        share = (x.mT.double() @ last) @ self.per_value[..., -last.shape[-1] :, :]
        found: Tensor = (y @ share.to(y.dtype)).double().square().sum(dim=(-2, -1)).sqrt()
        return found


def _found(ritz: _Ritz, basis: _Basis, probes: Tensor, probed: Tensor, passes: int) -> list[Found]:
    u = basis.left @ ritz.turns.to(probed.dtype)
    v = (basis.back @ ritz.per_value).to(probed.dtype)
    s = ritz.values.to(probed.dtype)
    rest = probed - (u * s[..., None, :]) @ (v.mT @ probes)
    lengths = rest.double().square().sum(dim=-2).sqrt().amax(dim=-1)
    # Halko, Martinsson and Tropp (SIAM Review 53, 2011), Lemma 4.1: ‖B‖ ≤ α √(2/π) max ‖B ω_i‖
    # but for a probability of α to the power of −probes.
    bound = FAILURE ** (-1.0 / PROBES) * math.sqrt(2.0 / math.pi)
    one = u.ndim == 2
    parts = zip(*(x[None] if one else x for x in (u, s, v, _energy(rest), lengths)), strict=True)
    return [
        Found(
            Spectrum(one_u.contiguous(), one_s, one_v.T.contiguous()),
            energy=float(one_energy),
            spectral=bound * float(longest),
            passes=passes,
        )
        for one_u, one_s, one_v, one_energy, longest in parts
    ]


def _missing(energies: list[Tensor]) -> Tensor:
    """Energy still to come, if gains go on shrinking as they did last."""
    if len(energies) < 3:
        return energies[-1] + math.inf
    before, last = energies[-2] - energies[-3], (energies[-1] - energies[-2]).clamp_min(0.0)
    ratio = torch.where(before > 0.0, last / before.clamp_min(_NEVER_ZERO), 1.0)
    ratio = ratio.clamp_max(_LARGEST_RATIO)  # Gains of rounding's size come in any order.
    onwards = (ratio / (1.0 - ratio)).clamp_min(_LEAST_RATIO)
    return torch.where(last > 0.0, last * onwards, 0.0)


def _energy(probed: Tensor) -> Tensor:
    """Unbiased estimate of ‖B‖²_F from B times Gaussian probes."""
    return probed.double().square().sum(dim=(-2, -1)) / PROBES


def _first(
    shape: tuple[int, ...], generator: torch.Generator, start: Tensor | None, like: Tensor
) -> Tensor:
    if start is None:
        return _gaussian(shape, generator, like)
    *rows, width = shape
    known = start[..., : width - _FRESH, :].mT.to(like)
    more = _gaussian((*rows, width - known.shape[-1]), generator, like)
    return torch.cat([known, more], dim=-1)


def _filled(tall: Tensor, generator: torch.Generator) -> Tensor:
    """`_orthonormal`, with random columns in place of those that depended on others."""
    found = _orthonormal(tall)
    live = found.abs().amax(dim=-2, keepdim=True) > 0.0
    if bool(live.all()):
        return found
    fresh = _gaussian(tuple(tall.shape), generator, tall)
    fresh = fresh - found @ (found.mT @ fresh)
    return _orthonormal(torch.where(live, found, fresh))


def _gaussian(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    drawn = torch.randn(*shape, generator=generator, dtype=like.dtype)
    return drawn.to(like.device)


def _orthonormal(tall: Tensor) -> Tensor:
    """Orthonormal columns of the same span; zero columns in place of those that depend on others.

    Cholesky of the float64 Gram matrix, or its eigenvectors where columns are nearly dependent
    (Stathopoulos and Wu, SIAM J. Sci. Comput. 23, 2002).
    """
    squared = gram(tall) if tall.ndim == 2 else tall.double().mT @ tall.double()
    lengths = squared.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = torch.where(lengths > 0.0, 1.0 / lengths, 0.0)[..., None]
    squared = scale * squared * scale.mT
    root, failed = torch.linalg.cholesky_ex(squared)
    least = float(root.diagonal(dim1=-2, dim2=-1).min())
    if not bool(failed.any()) and least > _DEPENDENT:
        identity = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
        turns = torch.linalg.solve_triangular(root, identity.expand_as(root), upper=False).mT
    else:
        squares, turns = torch.linalg.eigh(squared)
        real = squares > _DEPENDENT**2 * squares[..., -1:]
        inverse = torch.where(real, squares.clamp_min(0.0).rsqrt(), 0.0)
        turns = turns * inverse[..., None, :]
    change: Tensor = scale * turns
    return tall @ change.to(tall.dtype)
