"""FFA-LoRA: A stays as it was drawn, B alone is trained, sent back and averaged."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor

from flexlora.adapters import Adapter, Factors, Sides, best_factors
from flexlora.lowrank import LowRank
from flexlora.options import Option, require
from flexlora.rules.client import Memory
from flexlora.rules.contributions import Contributions
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.rule import Rule
from flexlora.rules.spectral import fresh_rows, warm_factors
from flexlora.rules.traits import Traits


@final
@dataclass(frozen=True, eq=False)
class FFALoRA(Rule):
    """B ← Σ w_k B_k, A as at first, all at the lowest rank of the federation.

    With one A for all, the mean of B is the exact mean of products. A never travels: both ends draw
    it from `seed` and the layer's name, so that runs of other seeds have the same A unless this
    option says otherwise, too. Source: Sun et al., ICLR 2024 (arXiv 2403.12313).
    Deviation: a federation that begins from an adapter keeps that adapter's A, which then travels
    down with every job, as nobody can draw it.
    """

    name = "ffa"
    source = "Sun et al., ICLR 2024, arXiv 2403.12313"
    traits = Traits(mixed_ranks=False, compares="factors")

    seed: Annotated[int, Option("what A is drawn from", least=0, most=2**62)] = 0

    def __post_init__(self) -> None:
        require(self, "rule")

    def trains(self, round: int) -> Sides:
        return "b"

    def init_layer(self, layer: Layer) -> LayerState:
        return {"b": torch.zeros(layer.m, layer.lowest)}

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        if start.width == 0:
            return Combined(self.init_layer(layer))
        return Combined(warm_factors(layer, layer.lowest, start))

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        whole = self._whole(layer, state)
        return whole if "a" in state else whole.only("b")

    def receive(self, sent: Adapter, memory: Memory) -> Adapter:
        return Adapter(
            {
                name: f
                if f.sides == "both"
                else Factors(f.b, self._drawn(name, *f.a.shape).to(f.b), f.scale)
                for name, f in sent.items()
            }
        )

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        return Combined({**state, "b": contributions.mean_factors().b})

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return self._whole(layer, state).product()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        return best_factors(self.learned_layer(layer, state), rank, layer.scale(rank))

    def _whole(self, layer: Layer, state: LayerState) -> Factors:
        b, rank = state["b"], state["b"].shape[1]
        a = state["a"] if "a" in state else self._drawn(layer.name, rank, layer.n)
        return Factors(b, a, layer.scale(rank))

    def _drawn(self, layer: str, rank: int, n: int) -> Tensor:
        digest = hashlib.sha256(f"{self.seed}/{layer}".encode()).digest()
        draw = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return fresh_rows(rank, n, draw)
