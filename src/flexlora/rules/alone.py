"""No federation at all: every client trains by itself and keeps what it has."""

from __future__ import annotations

from typing import final

import torch

from flexlora.adapters import Adapter, Factors, factors_of
from flexlora.lowrank import LowRank
from flexlora.rules.client import Encoded, Memory
from flexlora.rules.contributions import Contributions
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.rule import Rule
from flexlora.rules.spectral import empty_state, spectrum_of, warm_state
from flexlora.rules.traits import Traits


@final
class Alone(Rule):
    """Client k: (B_k, A_k) ← what it trained, from its own (B_k, A_k); nobody else ever sees them.

    The control of `federation.mode = "local"`, no rule that can be named: there is nothing that it
    combines. In its first round a client begins where a federation of these ranks would have it
    begin. What stays at the server is what all began from.
    """

    name = "local"
    source = "the usual control: local training alone"
    traits = Traits(sends="nothing", memory=True, learned="clients", compares="factors")

    def init_layer(self, layer: Layer) -> LayerState:
        return empty_state(layer)

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        return Combined(warm_state(layer, start))

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        rank = client.rank(layer)
        return factors_of(spectrum_of(state), rank, layer.scale(rank), fill=state["fresh"])

    def receive(self, sent: Adapter, memory: Memory) -> Adapter:
        if not memory:
            return sent
        return Adapter(
            {
                name: Factors(memory[f"{name}.b"], memory[f"{name}.a"], f.scale)
                for name, f in sent.items()
            }
        )

    def encode(self, trained: Adapter, sent: Adapter, memory: Memory) -> Encoded:
        nothing = {
            name: Factors(torch.zeros_like(f.b), torch.zeros_like(f.a), f.scale)
            for name, f in sent.items()
        }
        kept = {f"{name}.b": f.b for name, f in trained.items()}
        return Encoded(Adapter(nothing), kept | {f"{name}.a": f.a for name, f in trained.items()})

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        return Combined(state)

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return spectrum_of(state).low_rank()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        return factors_of(spectrum_of(state), rank, layer.scale(rank))
