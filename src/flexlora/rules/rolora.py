"""RoLoRA: rounds train B and A by turns, and the side that moved is averaged."""

from __future__ import annotations

from typing import final

from flexlora.adapters import Sides
from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import OneRank
from flexlora.rules.layer import Combined, Layer, LayerState
from flexlora.rules.traits import Traits


@final
class RoLoRA(OneRank):
    """Odd rounds: B ← Σ w_k B_k; even rounds: A ← Σ w_k A_k; all at the federation's lowest rank.

    The side that rests is the same everywhere, so the mean of the other is the exact mean of
    products. Source: Chen et al., NeurIPS 2025 (arXiv 2502.01755). Deviation: both sides travel
    down, for a client that was away lacks what it missed; up goes the side that moved.
    """

    name = "rolora"
    source = "Chen et al., NeurIPS 2025, arXiv 2502.01755"
    traits = Traits(mixed_ranks=False, compares="factors")

    def trains(self, round: int) -> Sides:
        return "b" if round % 2 else "a"

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        mean = contributions.mean_factors()
        moved = {"b": mean.b} if self.trains(layer.round) == "b" else {"a": mean.a}
        return Combined({**state, **moved})  # The mean of what rested would only round it.
