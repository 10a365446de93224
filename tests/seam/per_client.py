"""FSLoRA: every client trains its own random choice of the columns of one large adapter."""

from __future__ import annotations

import hashlib
from typing import final

import torch
from torch import Tensor

from flexlora.adapters import Factors, best_factors
from flexlora.lowrank import LowRank
from flexlora.rules import ClientView, Combined, Contributions, Layer, LayerState, Rule, Traits
from flexlora.rules.spectral import empty_factors, held_factors, warm_factors


@final
class Sketched(Rule):
    """Client k trains r_k of the columns of B and rows of A, drawn anew each round.

    The server adds Σ w_k of the changes, each in its own columns. Source: Fang et al.
    (arXiv 2501.19389). A client's scale α/r_k is the common one times the sketch's R/r_k.
    """

    name = "sketched"
    source = "Fang et al., ICML 2026, arXiv 2501.19389"
    traits = Traits(needs="each", sends="client", compares="factors")

    def init_layer(self, layer: Layer) -> LayerState:
        return {**empty_factors(layer, layer.highest), "seed": _seed(layer)}

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        return Combined({**warm_factors(layer, layer.highest, start), "seed": _seed(layer)})

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        rank = client.rank(layer)
        columns = _columns(layer, state, client.id, rank)
        return Factors(state["b"][:, columns], state["a"][columns], layer.scale(rank))

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        b, a = state["b"].clone(), state["a"].clone()
        for c in contributions.each():
            columns, trained = _columns(layer, state, c.client, c.rank), c.trained
            b[:, columns] += c.weight * (trained.b.float() - c.sent.b)
            a[columns] += c.weight * (trained.a.float() - c.sent.a)
        return Combined({**state, "b": b, "a": a})

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return held_factors(layer, state).product()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        return best_factors(self.learned_layer(layer, state), rank, layer.scale(rank))


def _seed(layer: Layer) -> Tensor:
    return torch.randint(2**62, (1,), generator=layer.generator)


def _columns(layer: Layer, state: LayerState, client: str, rank: int) -> Tensor:
    """The same when it is sent and when it is combined; another one for every client and round."""
    text = f"{int(state['seed'])}/{layer.name}/{layer.round}/{client}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    draw = torch.Generator().manual_seed(seed)
    return torch.randperm(state["a"].shape[0], generator=draw)[:rank].sort().values
