"""FLoRA: stack the clients' factors, add them to the base, start afresh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from flexlora.adapters import Factors, LayerSpec, best_factors
from flexlora.lowrank import LowRank, total
from flexlora.rules.base import Combined, Contribution, LayerState, Rule, Spec, Traits
from flexlora.rules.spectral import (
    empty_state,
    exact_state,
    fresh_rows,
    held_in,
    plus,
    values_of,
    warm_state,
)


@final
class FLoRA(Rule):
    """Δ ← Δ + [w_1 s_1 B_1, …] [A_1; …]: exact; every round trains a fresh adapter on top of Δ.

    Source: Wang et al., NeurIPS 2024 (arXiv 2409.05976). Deviations: all clients of a round start
    from one random A (its first r rows), drawn anew each round; Δ is kept recompressed (exactly;
    multiplied out once that is smaller) rather than as an ever longer stack; the stack itself
    travels as the patch. The fresh adapter travels as tensors and is counted as bytes down, where
    a seed would do.
    """

    name = "flora"
    source = "Wang et al., NeurIPS 2024, arXiv 2409.05976"
    traits = Traits(restarts=True)

    def init_layer(self, spec: Spec, layer: LayerSpec, generator: torch.Generator) -> LayerState:
        return empty_state(spec, layer, generator)

    def warm_start_layer(
        self, spec: Spec, layer: LayerSpec, start: LowRank, generator: torch.Generator
    ) -> Combined:
        state = warm_state(spec, layer, start, generator)
        return Combined(state, frozen=held_in(state).low_rank())

    def send_layer(
        self, spec: Spec, state: LayerState, rank: int, generator: torch.Generator
    ) -> Factors:
        # Drawn at full height and cut, so that clients of all ranks share their first rows.
        highest, n = state["fresh"].shape
        rows = fresh_rows(highest, n, generator)
        m = held_in(state).shape[0]
        return Factors(torch.zeros(m, rank), rows[:rank], spec.scale(rank))

    def combine_layer(
        self,
        spec: Spec,
        layer: LayerSpec,
        state: LayerState,
        contributions: Sequence[Contribution],
        generator: torch.Generator,
    ) -> Combined:
        shape, width = (layer.m, layer.n), sum(c.width for c in contributions)
        stack = total(((c.weight, c.update()) for c in contributions), shape, width)
        held = plus(held_in(state), stack)
        return Combined(
            exact_state(state["fresh"], held),
            frozen=held.low_rank(),
            step=stack if isinstance(stack, LowRank) else None,
        )

    def learned_layer(self, spec: Spec, layer: LayerSpec, state: LayerState) -> LowRank:
        return held_in(state).low_rank()

    def singular_values_layer(self, spec: Spec, layer: LayerSpec, state: LayerState) -> Tensor:
        return values_of(held_in(state))

    def readout_layer(self, spec: Spec, layer: LayerSpec, state: LayerState, rank: int) -> Factors:
        return best_factors(held_in(state), rank, spec.scale(rank))
