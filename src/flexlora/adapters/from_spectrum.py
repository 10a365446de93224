"""From a spectrum to factors of a rank: where the singular values go, and what fills up."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from flexlora.adapters.factors import Factors
from flexlora.errors import ConfigError
from flexlora.lowrank import Matrix, Spectrum, Split, best


def factors_of(
    spectrum: Spectrum,
    rank: int,
    scale: float,
    fill: Tensor | None = None,
    split: Split = "left",
) -> Factors:
    """B = U_r S_r / scale, A = V_rᵀ (arXiv 2402.11505), of exactly `rank` directions.

    split "balanced": B = U_r √(S_r / scale), A = √(S_r / scale) V_rᵀ, the same product.
    Where the spectrum has fewer, the remaining columns of B are zero and the remaining rows of A
    come from the same places of `fill` (they can be trained, and leave the product as it is), or
    are zero. The first rows of `fill` are what every client started from: what has been learned
    spans them already.
    """
    kept = spectrum.truncate(rank).kept
    m, n = spectrum.shape
    missing = rank - kept.rank
    sides = Spectrum(kept.u, kept.s / scale, kept.vh).low_rank(split)
    b = torch.cat([sides.left, kept.u.new_zeros(m, missing)], dim=1)
    rows = (
        kept.vh.new_zeros(missing, n) if fill is None else fill[kept.rank : rank].to(kept.vh.dtype)
    )
    return Factors(b, torch.cat([sides.right, rows], dim=0), scale)


def best_factors(held: Spectrum | Matrix, rank: int, scale: float) -> Factors:
    """The best rank-`rank` approximation of a matrix, as factors at this scale."""
    spectrum = held if isinstance(held, Spectrum) else best(held, rank).kept
    return factors_of(spectrum, rank, scale)


def checked_split(split: str, key: str) -> Split:
    """One of the two. Raises ConfigError, which names it as `key`, for another."""
    known: dict[str, Split] = {name: name for name in get_args(Split)}
    if split not in known:
        raise ConfigError(f"{key} is {split}; give {' or '.join(known)}")
    return known[split]
