"""FLoRA's fresh adapter without its B: zero wherever a round begins, it need not travel."""

from __future__ import annotations

from typing import final

import torch

from flexlora.adapters import Adapter, Factors, best_factors
from flexlora.lowrank import LowRank
from flexlora.rules import (
    ClientView,
    Combined,
    Contributions,
    Layer,
    LayerState,
    Memory,
    Rule,
    Traits,
)
from flexlora.rules.spectral import empty_state, exact_state, fresh_rows, held_in, plus, warm_state


@final
class FreshA(Rule):
    """Δ ← Δ + Σ w_k s_k B_k A_k; a client is sent A alone, begins at B = 0 and returns both.

    Source: Wang et al., NeurIPS 2024 (arXiv 2409.05976), half of whose fresh adapter is zeros.
    """

    name = "fresh-a"
    source = "Wang et al., NeurIPS 2024, arXiv 2409.05976"
    traits = Traits(delta="restart")

    def init_layer(self, layer: Layer) -> LayerState:
        return empty_state(layer)

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        state = warm_state(layer, start)
        return Combined(state, held_in(state).low_rank())

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        rank = client.rank(layer)
        rows = fresh_rows(layer.highest, layer.n, layer.generator)[:rank]
        return Factors(torch.zeros(layer.m, rank), rows, layer.scale(rank)).only("a")

    def receive(self, sent: Adapter, memory: Memory) -> Adapter:
        return Adapter({name: factors.zero_filled() for name, factors in sent.items()})

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        held = plus(held_in(state), contributions.sum())
        return Combined(exact_state(state["fresh"], held), held.low_rank())

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return held_in(state).low_rank()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        return best_factors(held_in(state), rank, layer.scale(rank))
