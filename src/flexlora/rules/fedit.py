"""FedIT: FedAvg of the factors, at one rank for all."""

from __future__ import annotations

from typing import final

from flexlora.adapters import Factors, best_factors
from flexlora.lowrank import LowRank
from flexlora.rules.contributions import Contributions
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.rule import Rule
from flexlora.rules.spectral import empty_factors, held_factors, warm_factors
from flexlora.rules.traits import Traits


@final
class FedIT(Rule):
    """B ← Σ w_k B_k, A ← Σ w_k A_k, all at the lowest rank of the federation (the bucket effect).

    Source: Zhang et al., ICASSP 2024 (arXiv 2305.05644). The mean of factors is not the mean of
    products: that inexactness is the method's own.
    """

    name = "fedit"
    source = "Zhang et al., ICASSP 2024, arXiv 2305.05644"
    traits = Traits(mixed_ranks=False, compares="factors")

    def init_layer(self, layer: Layer) -> LayerState:
        return empty_factors(layer, layer.lowest)

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        return Combined(warm_factors(layer, layer.lowest, start))

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        return held_factors(layer, state)

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        mean = contributions.mean_factors()
        return Combined({"b": mean.b, "a": mean.a})

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return held_factors(layer, state).product()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        return best_factors(self.learned_layer(layer, state), rank, layer.scale(rank))
