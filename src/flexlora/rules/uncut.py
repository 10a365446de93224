"""What the rules share that never cut their state: all of it, and its top, ready to be sent."""

from __future__ import annotations

from flexlora.adapters import Factors, best_factors
from flexlora.lowrank import Dense, Matrix, Spectrum, truncate
from flexlora.rules.layer import Layer, LayerState
from flexlora.rules.spectral import exact_state, held_in, plus, spectrum_of


def grown(layer: Layer, state: LayerState, step: Matrix, largest: int) -> LayerState:
    """The state plus this step, exactly.

    Factored while that is smaller, then the matrix itself with its `largest` largest triplets.
    """
    held = plus(held_in(state), step)
    after = exact_state(state["fresh"], held)
    if isinstance(held, Dense):
        cut = truncate(held, largest, layer.generator).kept
        after = {**after, "top_u": cut.u, "top_s": cut.s, "top_vh": cut.vh}
    return after


def sendable(state: LayerState) -> Spectrum:
    """The largest triplets of what is held: all of them, or as many as are ever sent."""
    if "dense" in state:
        return Spectrum(state["top_u"], state["top_s"], state["top_vh"])
    return spectrum_of(state)


def best_part(layer: Layer, state: LayerState, rank: int) -> Factors:
    """The best approximation of exactly this rank of all that is held."""
    enough = "top_s" in state and rank <= len(state["top_s"])
    held = sendable(state) if enough else held_in(state)
    return best_factors(held, rank, layer.scale(rank))
