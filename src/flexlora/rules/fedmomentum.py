"""FedMomentum: the exact sum, its top to train on, and what is cut off into the base."""

from __future__ import annotations

from typing import final

from flexlora.adapters import Factors, best_factors, factors_of
from flexlora.lowrank import LowRank, Spectrum, Split, svd
from flexlora.rules.contributions import Contributions
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.rule import Rule
from flexlora.rules.spectral import (
    empty_state,
    exact_state,
    held_in,
    named,
    plus,
    spectral_state,
    spectrum_of,
    unnamed,
    warm_state,
)
from flexlora.rules.traits import Traits

_SPLIT: Split = "balanced"


@final
class FedMomentum(Rule):
    """U S Vᵀ ← Σ w_k s B_k A_k; trained on: its best rank r, split evenly; Δ ← Δ + the rest.

    All at the lowest rank of the federation. Source: FedMomentum (arXiv 2603.08014), from its
    published formula: the exact sum, its SVD in place of factors' means, so that clients go on
    along the directions of the last rounds, and the residual into the frozen base. The singular
    values are split evenly, B = U √S, A = √S Vᵀ (both over √s), which the formula leaves open. Who
    holds the last Δ is sent a round's residual alone.
    """

    name = "fedmomentum"
    source = "arXiv 2603.08014"
    traits = Traits(mixed_ranks=False, delta="residual")

    def init_layer(self, layer: Layer) -> LayerState:
        begun = empty_state(layer)
        return {**begun, **named("rest", exact_state(begun["fresh"][:0], spectrum_of(begun)))}

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        begun = warm_state(layer, start)
        whole = spectrum_of(begun)
        top = whole.truncate(layer.lowest).kept
        rest = svd(_beyond(whole, layer.lowest))
        held = named("rest", exact_state(begun["fresh"][:0], rest))
        return Combined({**spectral_state(begun["fresh"], top), **held}, rest.low_rank())

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        rank = client.rank(layer)
        top, scale = spectrum_of(state), layer.scale(rank)
        return factors_of(top, rank, scale, fill=state["fresh"], split=_SPLIT)

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        whole = svd(contributions.sum())
        top, residual = whole.truncate(layer.lowest).kept, _beyond(whole, layer.lowest)
        rest = plus(held_in(unnamed("rest", state)), residual)
        held = named("rest", exact_state(state["fresh"][:0], rest))
        after = {**spectral_state(state["fresh"], top), **held}
        return Combined(after, rest.low_rank(), residual)

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        rest = held_in(unnamed("rest", state)).low_rank()
        return rest + spectrum_of(state).low_rank()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        return best_factors(self.learned_layer(layer, state), rank, layer.scale(rank))


def _beyond(whole: Spectrum, rank: int) -> LowRank:
    """What the best approximation of this rank leaves out."""
    return Spectrum(whole.u[:, rank:], whole.s[rank:], whole.vh[rank:]).low_rank()
