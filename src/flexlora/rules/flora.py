"""FLoRA: stack the clients' factors, add them to the base, start afresh."""

from __future__ import annotations

from typing import final

import torch

from flexlora.adapters import Factors
from flexlora.lowrank import LowRank
from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import Kept
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.spectral import (
    exact_state,
    fresh_rows,
    held_in,
    plus,
)
from flexlora.rules.traits import Traits


@final
class FLoRA(Kept):
    """Δ ← Δ + [w_1 s_1 B_1, …] [A_1; …]: exact; every round trains a fresh adapter on top of Δ.

    Source: Wang et al., NeurIPS 2024 (arXiv 2409.05976). Deviations: all clients of a round start
    from one random A (its first r rows), drawn anew each round: where each drew its own, their
    first steps, which move B alone, would not share a row space; Δ is kept recompressed (exactly;
    multiplied out once that is smaller) rather than as an ever longer stack; the stack itself
    travels as the patch. The fresh adapter travels as tensors and is counted as bytes down, where
    a seed would do.
    """

    name = "flora"
    source = "Wang et al., NeurIPS 2024, arXiv 2409.05976"
    traits = Traits(delta="restart")

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        return fresh_adapter(layer, state, client)

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        stack = contributions.sum()
        held = plus(held_in(state), stack)
        return Combined(
            exact_state(state["fresh"], held),
            frozen=held.low_rank(),
            step=stack if isinstance(stack, LowRank) else None,
        )


def fresh_adapter(layer: Layer, state: LayerState, client: ClientView) -> Factors:
    """B = 0 and new rows of A, drawn at full height and cut: clients of all ranks share the first.

    The state has "fresh", of the federation's highest rank.
    """
    rank, highest = client.rank(layer), state["fresh"].shape[0]
    rows = fresh_rows(highest, layer.n, layer.generator)
    return Factors(torch.zeros(layer.m, rank), rows[:rank], layer.scale(rank))
