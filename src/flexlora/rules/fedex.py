"""FedEx-LoRA: the mean of the factors, and what that loses of the mean of products goes into Δ."""

from __future__ import annotations

from typing import final

from flexlora.adapters import Factors, best_factors
from flexlora.lowrank import LowRank, Spectrum, svd
from flexlora.rules.contributions import Contributions
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.rule import Rule
from flexlora.rules.spectral import (
    empty_factors,
    exact_state,
    held_factors,
    held_in,
    plus,
    warm_factors,
)
from flexlora.rules.traits import Traits


@final
class FedExLoRA(Rule):
    """B ← Σ w_k B_k, A ← Σ w_k A_k, Δ ← Δ + Σ w_k s B_k A_k − s B A: nothing of the sum is lost.

    Source: Singhal et al., ACL 2025 (arXiv 2410.09432). All at the lowest rank of the federation.
    Who holds the last Δ is sent a round's residual alone, of rank Σ r at most.
    """

    name = "fedex"
    source = "Singhal et al., ACL 2025, arXiv 2410.09432"
    traits = Traits(mixed_ranks=False, delta="residual", compares="factors")

    def init_layer(self, layer: Layer) -> LayerState:
        nothing = exact_state(empty_factors(layer, 0)["a"], Spectrum.zero(*layer.shape))
        return {**nothing, **empty_factors(layer, layer.lowest)}

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        factors = warm_factors(layer, layer.lowest, start)
        sent = Factors(factors["b"], factors["a"], layer.scale(layer.lowest))
        rest = svd(start - sent.product())
        none = empty_factors(layer, 0)["a"]
        return Combined({**exact_state(none, rest), **factors}, rest.low_rank())

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        return held_factors(layer, state)

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        mean = contributions.mean_factors()
        none = Spectrum.zero(*layer.shape)
        residual = plus(plus(none, contributions.sum()), mean.product().scaled(-1.0)).low_rank()
        held = plus(held_in(state), residual)
        after = {**exact_state(state["fresh"], held), "b": mean.b, "a": mean.a}
        return Combined(after, held.low_rank(), residual)

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        sent = held_factors(layer, state)
        return held_in(state).low_rank() + sent.product()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        return best_factors(self.learned_layer(layer, state), rank, layer.scale(rank))
