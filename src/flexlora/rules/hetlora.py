"""HetLoRA: zero padding to the largest rank, norm weights, and clients that prune themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor

from flexlora.adapters import Adapter, Factors
from flexlora.lowrank import LowRank
from flexlora.options import Option, require
from flexlora.rules.client import Encoded, Live, Memory
from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import Padded
from flexlora.rules.layer import Combined, Layer, LayerState
from flexlora.rules.padded import row_sums
from flexlora.rules.spectral import warm_factors
from flexlora.rules.traits import Traits
from flexlora.rules.weights import Summary, normalised


@final
@dataclass(frozen=True, eq=False)
class HetLoRA(Padded):
    """B ← Σ w_k [B_k 0], A ← Σ w_k [A_k; 0]; a client is sent the first r_k directions.

    Weights are ‖B_k A_k‖_F over the whole model (by examples if all are zero). A client adds
    λ ‖B_tail‖ ‖A_tail‖ to its loss, its tail being the directions above ⌊γ r⌋; if training left
    the tail's product smaller than it was sent, the client drops the tail and keeps the lower rank.

    Source: Cho et al., EMNLP 2024 (arXiv 2401.06432), sections 3.2 and 3.3. The paper's model is
    W₀ + BA: it has no α and no scale by rank, so `training.alpha` and `scaling` say nothing here.
    All clients share one scale, 1 by default, and cutting a client's factors never changes the
    meaning of what it keeps. Deviations: ranks may differ by layer, and all layers of a client are
    pruned together, by the tails' joint norm; `scale` may be another than 1; directions that no
    client of the round owns stay as they are (padded with zeros in both factors they could never be
    trained again).
    """

    name = "hetlora"
    source = "Cho et al., EMNLP 2024, arXiv 2401.06432"
    traits = Traits(needs="each", prunes=True, scales="rule", compares="factors")

    gamma: Annotated[
        float,
        Option("γ: share of the rank that pruning keeps; 1: never prunes", above=0.0, most=1.0),
    ] = 0.99
    regulariser: Annotated[
        float, Option("λ: weight of the tail in the loss", least=0.0, most=1e6)
    ] = 0.005
    scale: Annotated[
        float,
        Option("s of W₀ + s·BA, one for all clients; the paper has no other", above=0.0, most=1e6),
    ] = 1.0

    def __post_init__(self) -> None:
        require(self, "rule")

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        return Combined(warm_factors(layer, layer.highest, start, self.scale))

    def weigh(self, summaries: Sequence[Summary]) -> dict[str, float]:
        if all(s.norm == 0.0 for s in summaries):
            return super().weigh(summaries)
        return normalised({s.client: s.norm for s in summaries})

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        sums = row_sums(contributions, state["a"].shape[0])
        return Combined(sums.padded(state))

    def penalty(self, live: Live, sent: Live) -> Tensor | None:
        tails = [
            b[:, self._kept(b.shape[1]) :].norm() * a[self._kept(a.shape[0]) :].norm()
            for b, a in live.values()
            if self._kept(a.shape[0]) < a.shape[0]
        ]
        return self.regulariser * torch.stack(tails).sum() if tails else None

    def encode(self, trained: Adapter, sent: Adapter, memory: Memory) -> Encoded:
        if self._tail_norm(trained) >= self._tail_norm(sent):
            return Encoded(trained)
        return Encoded(Adapter({name: f.cut(self._kept(f.rank)) for name, f in trained.items()}))

    def whole(self, layer: Layer, state: LayerState) -> Factors:
        return Factors(state["b"], state["a"], self.scale)

    def _kept(self, rank: int) -> int:
        """⌊γ r⌋, but at least 1: a client never prunes itself out of a layer."""
        return max(1, math.floor(self.gamma * rank + 1e-9))  # 0.29 · 100 is 28.999…

    def _tail_norm(self, adapter: Adapter) -> float:
        tails = (
            Factors(f.b[:, self._kept(f.rank) :], f.a[self._kept(f.rank) :], f.scale)
            for f in adapter.values()
        )
        return math.sqrt(sum(tail.product().norm() ** 2 for tail in tails))
