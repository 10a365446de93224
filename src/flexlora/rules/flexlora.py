"""FlexLoRA: the exact weighted sum of products, cut by SVD to each client's rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from flexlora.adapters import Factors, LayerSpec, checked_split, factors_of
from flexlora.lowrank import LowRank, total, truncate
from flexlora.rules.base import Combined, Contribution, LayerState, Rule, Spec, Traits
from flexlora.rules.spectral import (
    empty_state,
    spectral_state,
    spectrum_of,
    warm_state,
)


@final
class FlexLoRA(Rule):
    """ΔW ← Σ w_k s_k B_k A_k, each round anew; a client of rank r is sent its best rank-r part.

    Source: Bai et al., NeurIPS 2024 (arXiv 2402.11505), steps 3 to 5. Kept of the sum is what any
    client can be sent: its best part of the federation's highest rank, within 1e-5 of the best
    possible distance (exactly the best where the ranks' sum is small). Where fewer than r
    directions have been learned, the rest of A is the shared initial A with B = 0, which leaves
    the product unchanged (the paper does not say).
    Known flaw, kept: the energy outside the smallest rank dies round by round (arXiv 2602.13486).
    """

    name = "flexlora"
    source = "Bai et al., NeurIPS 2024, arXiv 2402.11505"
    traits = Traits()

    def __init__(self, split: str = "left") -> None:
        """`split`: singular values all in what is sent as B ("left", the paper), or "balanced"."""
        self.split = checked_split(split)

    def init_layer(self, spec: Spec, layer: LayerSpec, generator: torch.Generator) -> LayerState:
        return empty_state(spec, layer, generator)

    def warm_start_layer(
        self, spec: Spec, layer: LayerSpec, start: LowRank, generator: torch.Generator
    ) -> Combined:
        return Combined(warm_state(spec, layer, start, generator))

    def send_layer(
        self, spec: Spec, state: LayerState, rank: int, generator: torch.Generator
    ) -> Factors:
        return factors_of(
            spectrum_of(state), rank, spec.scale(rank), fill=state["fresh"], split=self.split
        )

    def combine_layer(
        self,
        spec: Spec,
        layer: LayerSpec,
        state: LayerState,
        contributions: Sequence[Contribution],
        generator: torch.Generator,
    ) -> Combined:
        rank = spec.highest[layer.name]
        trained = ((c.weight, c.trained) for c in contributions)
        products = ((weight * f.scale, f.unscaled()) for weight, f in trained)
        width = sum(c.width for c in contributions)
        cut = truncate(
            total(products, (layer.m, layer.n), width, rank), rank, generator, start=state["vh"]
        )
        return Combined(spectral_state(state["fresh"], cut.kept), certificate=cut.certificate)

    def learned_layer(self, spec: Spec, layer: LayerSpec, state: LayerState) -> LowRank:
        return spectrum_of(state).low_rank()

    def singular_values_layer(self, spec: Spec, layer: LayerSpec, state: LayerState) -> Tensor:
        return state["s"]

    def readout_layer(self, spec: Spec, layer: LayerSpec, state: LayerState, rank: int) -> Factors:
        return factors_of(spectrum_of(state), rank, spec.scale(rank))
