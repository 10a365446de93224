"""FedIT: FedAvg of the factors, at one rank for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch

from flexlora.adapters import Factors, LayerSpec, best_factors
from flexlora.lowrank import LowRank
from flexlora.rules.base import Combined, Contribution, LayerState, Rule, Spec, Traits
from flexlora.rules.spectral import fresh_rows, warm_factors


@final
class FedIT(Rule):
    """B ← Σ w_k B_k, A ← Σ w_k A_k, all at the lowest rank of the federation (the bucket effect).

    Source: Zhang et al., ICASSP 2024 (arXiv 2305.05644). The mean of factors is not the mean of
    products: that inexactness is the method's own.
    """

    name = "fedit"
    source = "Zhang et al., ICASSP 2024, arXiv 2305.05644"
    traits = Traits(mixed_ranks=False, compares="factors")

    def init_layer(self, spec: Spec, layer: LayerSpec, generator: torch.Generator) -> LayerState:
        rank = spec.lowest[layer.name]
        return {"b": torch.zeros(layer.m, rank), "a": fresh_rows(rank, layer.n, generator)}

    def warm_start_layer(
        self, spec: Spec, layer: LayerSpec, start: LowRank, generator: torch.Generator
    ) -> Combined:
        rank = spec.lowest[layer.name]
        return Combined(warm_factors(start, rank, spec.scale(rank), generator))

    def send_layer(
        self, spec: Spec, state: LayerState, rank: int, generator: torch.Generator
    ) -> Factors:
        return Factors(state["b"], state["a"], spec.scale(state["a"].shape[0]))

    def combine_layer(
        self,
        spec: Spec,
        layer: LayerSpec,
        state: LayerState,
        contributions: Sequence[Contribution],
        generator: torch.Generator,
    ) -> Combined:
        b, a = torch.zeros_like(state["b"]), torch.zeros_like(state["a"])
        for c in contributions:
            trained = c.trained
            b += c.weight * trained.b.float()
            a += c.weight * trained.a.float()
        return Combined({"b": b, "a": a})

    def learned_layer(self, spec: Spec, layer: LayerSpec, state: LayerState) -> LowRank:
        return Factors(state["b"], state["a"], spec.scale(state["a"].shape[0])).product()

    def readout_layer(self, spec: Spec, layer: LayerSpec, state: LayerState, rank: int) -> Factors:
        learned = self.learned_layer(spec, layer, state)
        return best_factors(learned, rank, spec.scale(rank))
