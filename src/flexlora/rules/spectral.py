"""What the product rules share: a layer's state as a spectrum, and factors read from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flexlora.adapters import Factors, LayerSpec
from flexlora.lowrank import LowRank, Spectrum, svd
from flexlora.rules.base import LayerState, Spec


def fresh_rows(rank: int, n: int, generator: torch.Generator) -> Tensor:
    """A new `a` of shape (rank, n), uniform in ±1/√n: the initialisation of LoRA's reference code.

    The bound does not depend on the rank, so the first r rows are a fair start for rank r.
    """
    bound = 1.0 / math.sqrt(n)
    return (torch.rand(rank, n, generator=generator) * 2.0 - 1.0) * bound


def spectral_state(fresh: Tensor, spectrum: Spectrum) -> LayerState:
    """The state of a product rule: the shared initial rows and the learned update's spectrum."""
    return {"fresh": fresh, **_learned(spectrum)}


def _learned(spectrum: Spectrum) -> LayerState:
    return {"u": spectrum.u, "s": spectrum.s, "vh": spectrum.vh}


def spectrum_of(state: LayerState) -> Spectrum:
    return Spectrum(state["u"], state["s"], state["vh"])


def empty_state(spec: Spec, layer: LayerSpec, generator: torch.Generator) -> LayerState:
    """Nothing learned yet; shared initial rows for the highest rank of the federation."""
    rows = fresh_rows(spec.highest[layer.name], layer.n, generator)
    return spectral_state(rows, Spectrum.zero(layer.m, layer.n))


def warm_state(
    spec: Spec, layer: LayerSpec, start: LowRank, generator: torch.Generator
) -> LayerState:
    """`empty_state`, but with `start` as what has been learned."""
    return {**empty_state(spec, layer, generator), **_learned(svd(start))}


def warm_factors(start: LowRank, rank: int, scale: float, generator: torch.Generator) -> LayerState:
    """The state (b, a) of a factor rule: the best part of `start`, the rest drawn as at first."""
    rows = fresh_rows(rank, start.shape[1], generator)
    factors = factors_of(svd(start), rank, scale, fill=rows)
    return {"b": factors.b, "a": factors.a}


def factors_of(spectrum: Spectrum, rank: int, scale: float, fill: Tensor | None = None) -> Factors:
    """B = U_r S_r / scale, A = V_rᵀ (arXiv 2402.11505), of exactly `rank` directions.

    Where the spectrum has fewer, the remaining columns of B are zero and the remaining rows of A
    come from the same places of `fill` (they can be trained, and leave the product as it is), or
    are zero. The first rows of `fill` are what every client started from: what has been learned
    spans them already.
    """
    kept = spectrum.truncate(rank).kept
    m, n = spectrum.shape
    missing = rank - kept.rank
    b = torch.cat([kept.u * kept.s / scale, kept.u.new_zeros(m, missing)], dim=1)
    rows = (
        kept.vh.new_zeros(missing, n) if fill is None else fill[kept.rank : rank].to(kept.vh.dtype)
    )
    return Factors(b, torch.cat([kept.vh, rows], dim=0), scale)


def best_factors(matrix: LowRank, rank: int, scale: float) -> Factors:
    """The best rank-`rank` approximation of a factored matrix, as factors at this scale."""
    return factors_of(svd(matrix), rank, scale)
