"""FFA-LoRA: A stays as it was drawn, B alone is trained, sent back and averaged."""

from __future__ import annotations

from typing import final

from flexlora.adapters import Factors, Sides, best_factors
from flexlora.lowrank import LowRank
from flexlora.rules import ClientView, Combined, Contributions, Layer, LayerState, Rule, Traits
from flexlora.rules.spectral import empty_factors, held_factors, warm_factors


@final
class FreezeA(Rule):
    """B ← Σ w_k B_k, A as at first, all at the lowest rank of the federation.

    Source: Sun et al., ICLR 2024 (arXiv 2403.12313). With one A for all, the mean of B is the exact
    mean of products. Deviation: A travels down with every job, where a seed would do.
    """

    name = "freeze-a"
    source = "Sun et al., ICLR 2024, arXiv 2403.12313"
    traits = Traits(mixed_ranks=False, compares="factors")

    def trains(self, round: int) -> Sides:
        return "b"

    def init_layer(self, layer: Layer) -> LayerState:
        return empty_factors(layer, layer.lowest)

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        return Combined(warm_factors(layer, layer.lowest, start))

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        return held_factors(layer, state)

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        return Combined({"b": contributions.mean_factors().b, "a": state["a"]})

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return held_factors(layer, state).product()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        return best_factors(self.learned_layer(layer, state), rank, layer.scale(rank))
