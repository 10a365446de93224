"""ECLoRA: FlexLoRA with error feedback: what a round cuts off is added to the next one's sum."""

from __future__ import annotations

from typing import final

from flexlora.lowrank import LowRank, Spectrum, svd, truncate
from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import Replaced
from flexlora.rules.layer import Combined, Layer, LayerState
from flexlora.rules.spectral import (
    empty_state,
    exact_state,
    held_in,
    named,
    plus,
    spectral_state,
    unnamed,
    warm_state,
)
from flexlora.rules.traits import Traits


@final
class ECLoRA(Replaced):
    """ΔW ← SVD_R(Σ w_k s_k B_k A_k + E), E ← what that cut off; a client is sent its best rank r_k.

    R is the federation's highest rank; E stays at the server and is kept whole. Source: ECLoRA,
    TNNLS 2025, from its published formula. As in FlexLoRA, ΔW is replaced each round, and what
    clients of lower rank were not sent is still averaged away: E holds only what rank R loses.
    """

    name = "eclora"
    source = "ECLoRA, IEEE TNNLS 2025"
    traits = Traits()

    def init_layer(self, layer: Layer) -> LayerState:
        return self._begun(layer, empty_state(layer))

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        return Combined(self._begun(layer, warm_state(layer, start)))

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        whole = plus(held_in(unnamed("error", state)), contributions.sum())
        matrix = whole.low_rank() if isinstance(whole, Spectrum) else whole
        cut = truncate(matrix, layer.highest, layer.generator)
        error = plus(whole, cut.kept.low_rank().scaled(-1.0))
        fresh = state["fresh"]
        after = {**spectral_state(fresh, cut.kept), **named("error", exact_state(fresh[:0], error))}
        return Combined(after, certificate=cut.certificate)

    def _begun(self, layer: Layer, state: LayerState) -> LayerState:
        nothing = exact_state(state["fresh"][:0], svd(LowRank.zero(layer.m, layer.n)))
        return {**state, **named("error", nothing)}
