"""The largest singular triplets of a wide sum, by block Lanczos from random directions.

Golub, Luk and Overton (ACM TOMS 7, 1981), with full reorthogonalisation of the left basis: every
pass multiplies by the matrix and by its transpose, and everything found so far stays in the basis,
which converges in half the passes of subspace iteration (Musco and Musco, NeurIPS 2015). The last
round's directions would be a start that saves hardly a pass, and larger values hide behind them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from flexlora.lowrank.krylov import Basis, Operator, filled, gaussian, orthonormal
from flexlora.lowrank.ritz import Ritz
from flexlora.lowrank.spectrum import Spectrum

PROBES = 10
FAILURE = 1e-3  # Of a spectral bound from so many probes.
_LOOKS = 4  # At what is left over, where values stand close together.
_SPENT = 2 / 3  # Of the tolerance: extrapolation errs.
_CLOSE = 0.25  # Of what is allowed may be missing where values stand close together.
_BLOCK = 0.4  # Of the rank: narrower blocks need fewer columns in all, wider ones fewer passes.
_NARROWEST = 16
_TINY = 2.0**-40  # Products below it, and above its inverse, want scaling first.
_RESIDUAL = 100.0  # Times the tolerance: what a residual must have fallen below as well.
_LEAST_RATIO = 0.05  # Of the next gain to the last: extrapolation is not trusted below it,
_UNSURE_RATIO = 0.5
_LARGEST_RATIO = 0.95  # nor where gains do not shrink.
_FASTER = 0.85  # Of a ratio, the next one, at best.
_ROUNDING = 2.0  # Of products, in eps of the largest value: gains below it are none.


@dataclass(frozen=True, eq=False)
class Found:
    """The triplets that settled, and what Gaussian probes say of the rest.

    energy: unbiased estimate of ‖matrix − spectrum‖²_F; spectral: bound of its largest singular
    value, which fails with probability `FAILURE`.
    """

    spectrum: Spectrum
    energy: float
    spectral: float


def block_width(rank: int) -> int:
    """Columns that one pass multiplies."""
    return max(_NARROWEST, math.ceil(_BLOCK * rank))


def room(rank: int) -> int:
    """Columns of the smallest basis in which anything can settle."""
    width = block_width(rank)
    return width * (max(1, math.ceil(_judged_from(rank) / width)) + 2)


def _judged_from(rank: int) -> int:
    return 2 * rank - block_width(rank) // 2


def lanczos(
    matrix: Operator,
    rank: int,
    generator: torch.Generator,
    *,
    tolerance: float,
    largest_basis: int,
) -> Found | None:
    """The `rank` largest triplets; None where they did not settle within `largest_basis` columns.

    tolerance: the distance of the result from the matrix is to exceed the best possible one by no
    more than this share. Settled means: the captured energy still missing, extrapolated from the
    last passes, is below that, so are the Ritz residuals, with a margin, and a last look at what
    random directions leave over gains no more than the difference. Where values stand close
    together, gains pause or shrink by fits and starts. So many of them as the block has columns,
    with no gap below, do not settle; where they are half as many, or have a gap, no more than a
    quarter of what is allowed may be missing. Raises ArithmeticError where the products are not
    finite, or near the end of the dtype's range.
    """
    width, n = block_width(rank), matrix.shape[1]
    probes = gaussian((n, PROBES), generator, matrix.like)
    x = orthonormal(gaussian((n, width), generator, matrix.like))
    seen = matrix.ahead(torch.cat([x, probes], dim=1))
    size = float(seen.abs().max())
    if not _TINY < size < 1.0 / _TINY:
        raise ArithmeticError(f"products of size {size}")
    y, probed = seen[:, :width], seen[:, width:]
    basis, ritz, energies, residual = Basis.empty(matrix), None, list[float](), math.inf
    while basis.columns + width <= largest_basis:
        y = basis.outside(y)
        if ritz is not None:
            residual = ritz.residual(y, x, basis.back[:, -width:])
        basis = basis.extended(y)
        z = basis.back[:, -width:].to(x.dtype)
        if basis.columns >= _judged_from(rank):
            ritz = Ritz(basis.squared, rank, width)
            energies.append(ritz.energy)
            left_over = basis.outside(probed)
            allowed = 2.0 * _SPENT * tolerance * (_energy(left_over) + ritz.beyond)
            allowed += width * (_ROUNDING * torch.finfo(x.dtype).eps * float(ritz.values[0])) ** 2
            if _hopeless(energies, allowed, (largest_basis - basis.columns) // width):
                return None
            missing = _missing(energies)
            looks = _looks(ritz, width, residual, missing, allowed)
            if looks is None:
                return None
            if looks:
                # Few directions stand for many.
                spare = (allowed - missing) / max(1.0, rank / PROBES)
                looked = _looked(basis, ritz, left_over, looks, spare)
                if looked is None:
                    return _found(ritz, basis, probes, probed)
                # Something was hidden: go on from where it showed, and judge anew.
                basis, ritz, residual = looked, None, math.inf
                energies.clear()
                probes = gaussian((n, PROBES), generator, matrix.like)
                probed = matrix.ahead(probes)
                drawn = gaussian((n, width - PROBES), generator, matrix.like)
                shown = basis.back[:, -PROBES:].to(drawn)
                x = filled(torch.cat([shown, drawn], dim=1), generator)
                y = matrix.ahead(x)
                continue
        # Only what the last block did not hold is new; the left basis takes care of the rest.
        x = orthonormal(z - x @ (x.T @ z))
        y = matrix.ahead(x)
    return None


def _looks(ritz: Ritz, width: int, residual: float, missing: float, allowed: float) -> int | None:
    """How many looks at what is left over will tell whether the triplets have settled.

    0: they have not yet; None: they never will. missing, allowed: energies, the residual is of
    their root.
    """
    spare = allowed - missing
    if residual**2 > _RESIDUAL * allowed or not spare >= 0.0:
        return 0
    crowded = ritz.hidden(width) > spare
    if ritz.lacks_rank or (crowded and not ritz.separate):
        return None
    close = crowded or ritz.hidden(width // 2) > spare
    if close and missing > _CLOSE * allowed:
        return 0
    return _LOOKS if crowded else 1


def _looked(basis: Basis, ritz: Ritz, left_over: Tensor, looks: int, spare: float) -> Basis | None:
    """The basis with what passes from `left_over` have shown, as soon as that gains too much.

    None where it does not. One step mixes what is hidden with all that is left over; each further
    one brings out what is larger than the rest.
    """
    looked, y = basis, left_over
    for look in range(looks):
        if look:
            y = basis.matrix.ahead(orthonormal(looked.back[:, -PROBES:].to(y.dtype)))
            y = looked.outside(y)
        looked = looked.extended(y)
        if ritz.gain(looked) > spare:
            return looked
    return None


def _found(ritz: Ritz, basis: Basis, probes: Tensor, probed: Tensor) -> Found:
    u = basis.left @ ritz.turns.to(probed.dtype)
    v = (basis.back @ ritz.per_value).to(probed.dtype)
    s = ritz.values.to(probed.dtype)
    rest = probed - (u * s) @ (v.T @ probes)
    longest = float(rest.double().square().sum(dim=0).sqrt().max())
    # Halko, Martinsson and Tropp (SIAM Review 53, 2011), Lemma 4.1: ‖B‖ ≤ α √(2/π) max ‖B ω_i‖
    # but for a probability of α to the power of −probes.
    bound = FAILURE ** (-1.0 / PROBES) * math.sqrt(2.0 / math.pi)
    spectrum = Spectrum(u.contiguous(), s, v.T.contiguous())
    return Found(spectrum, energy=_energy(rest), spectral=bound * longest)


def _missing(energies: list[float]) -> float:
    """Energy still to come, as if gains were to shrink more and more slowly.

    Σ_j j qʲ times the last gain, q being the larger of the last two ratios of a gain to the one
    before: in a dense tail they shrink as a power of the pass, not of a ratio, and by fits and
    starts.
    """
    if len(energies) < 3:
        return math.inf
    gains = [after - before for before, after in pairwise(energies[-4:])]
    last = gains[-1]
    if last <= 0.0:
        return 0.0
    # Gains of rounding's size come in any order.
    ratios = [after / before if before > 0.0 else math.inf for before, after in pairwise(gains)]
    # Of one ratio alone nothing says whether it will stay.
    ratio = min(max(*ratios, 0.0 if len(ratios) > 1 else _UNSURE_RATIO), _LARGEST_RATIO)
    return last * max(ratio / (1.0 - ratio) ** 2, _LEAST_RATIO)


def _hopeless(energies: list[float], allowed: float, passes: int) -> bool:
    """Whether gains are still too large after all passes left, shrinking as fast as ever seen.

    In flat spectra they shrink the faster with each pass, by up to 15 %.
    """
    if len(energies) < 3:
        return False
    before, last = energies[-2] - energies[-3], energies[-1] - energies[-2]
    ratio = min(last / before, 1.0) if before > 0.0 else 0.0
    for _ in range(passes):
        ratio *= _FASTER
        last *= ratio
    return last * ratio > allowed * (1.0 - ratio) ** 2


def _energy(probed: Tensor) -> float:
    """Unbiased estimate of ‖B‖²_F from B times Gaussian probes."""
    return float(probed.double().square().sum()) / PROBES
