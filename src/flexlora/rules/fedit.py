"""FedIT: FedAvg of the factors, at one rank for all."""

from __future__ import annotations

from typing import final

from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import OneRank
from flexlora.rules.layer import Combined, Layer, LayerState
from flexlora.rules.traits import Traits


@final
class FedIT(OneRank):
    """B ← Σ w_k B_k, A ← Σ w_k A_k, all at the lowest rank of the federation (the bucket effect).

    Source: Zhang et al., ICASSP 2024 (arXiv 2305.05644). The mean of factors is not the mean of
    products: that inexactness is the method's own.
    """

    name = "fedit"
    source = "Zhang et al., ICASSP 2024, arXiv 2305.05644"
    traits = Traits(mixed_ranks=False, compares="factors")

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        mean = contributions.mean_factors()
        return Combined({"b": mean.b, "a": mean.a})
