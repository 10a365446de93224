"""What the product rules share: a layer's state as a spectrum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flexlora.adapters import Factors, factors_of
from flexlora.lowrank import Dense, LowRank, Matrix, Spectrum, best, singular_values, svd
from flexlora.rules.layer import Layer, LayerState


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


def empty_state(layer: Layer) -> LayerState:
    """Nothing learned yet; shared initial rows for the highest rank of the federation."""
    rows = fresh_rows(layer.highest, layer.n, layer.generator)
    return spectral_state(rows, Spectrum.zero(layer.m, layer.n))


def warm_state(layer: Layer, start: LowRank) -> LayerState:
    """`empty_state`, but with `start` as what has been learned."""
    return {**empty_state(layer), **_learned(svd(start))}


def empty_factors(layer: Layer, rank: int) -> LayerState:
    """The state (b, a) of a factor rule at this rank: b is zero, a drawn."""
    return {"b": torch.zeros(layer.m, rank), "a": fresh_rows(rank, layer.n, layer.generator)}


def warm_factors(layer: Layer, rank: int, start: LowRank, scale: float | None = None) -> LayerState:
    """The same with the best part of `start`, the rest drawn as at first.

    scale: that of what the state holds; None for the federation's of this rank.
    """
    rows = fresh_rows(rank, layer.n, layer.generator)
    scale = layer.scale(rank) if scale is None else scale
    factors = factors_of(best(start, rank).kept, rank, scale, fill=rows)
    return {"b": factors.b, "a": factors.a}


def held_factors(layer: Layer, state: LayerState) -> Factors:
    """What such a state holds, at the federation's scale of its rank."""
    return Factors(state["b"], state["a"], layer.scale(state["a"].shape[0]))


def exact_state(fresh: Tensor, held: Spectrum | Dense) -> LayerState:
    """The state of a rule that never cuts: a spectrum, or all of a matrix too full for one."""
    if isinstance(held, Spectrum):
        return spectral_state(fresh, held)
    return {"fresh": fresh, "dense": held.matrix, "magnitude": torch.tensor(held.magnitude)}


def held_in(state: LayerState) -> Spectrum | Dense:
    """What `exact_state` was given."""
    if "dense" in state:
        return Dense(state["dense"], float(state["magnitude"]))
    return spectrum_of(state)


def named(name: str, state: LayerState) -> LayerState:
    """The same under "<name>.<key>": for a rule that keeps a second such matrix."""
    return {f"{name}.{key}": tensor for key, tensor in state.items()}


def unnamed(name: str, state: LayerState) -> LayerState:
    """What `named` was given."""
    start = f"{name}."
    return {k.removeprefix(start): x for k, x in state.items() if k.startswith(start)}


def values_of(held: Spectrum | Dense) -> Tensor:
    """Its singular values above rounding, descending."""
    return held.s if isinstance(held, Spectrum) else singular_values(held)


def added(matrix: Matrix, other: LowRank) -> Matrix:
    """The sum as it is, for `truncate`: stacked, or multiplied out where the first is."""
    if isinstance(matrix, LowRank):
        return matrix + other
    magnitude = math.hypot(matrix.magnitude, other.magnitude())
    return Dense(matrix.matrix + other.dense(), magnitude)


def plus(held: Spectrum | Dense, step: Matrix) -> Spectrum | Dense:
    """The exact sum, factored while that is smaller than the matrix itself."""
    m, n = held.shape
    if isinstance(held, Spectrum) and isinstance(step, LowRank):
        stack = held.low_rank() + step
        if stack.width < min(m, n):
            spectrum = svd(stack)
            if spectrum.rank * (m + n) < m * n:
                return spectrum
    whole, added = _dense(held), _dense(step)
    return Dense(whole.matrix + added.matrix, math.hypot(whole.magnitude, added.magnitude))


def _dense(matrix: Spectrum | Matrix) -> Dense:
    if isinstance(matrix, Spectrum):
        matrix = matrix.low_rank()
    return Dense(matrix.dense(), matrix.magnitude()) if isinstance(matrix, LowRank) else matrix
