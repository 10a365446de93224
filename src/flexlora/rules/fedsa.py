"""FedSA-LoRA: A is shared and averaged, B stays with the client that trained it."""

from __future__ import annotations

from typing import final

from flexlora.adapters import Adapter, Factors, Sides
from flexlora.rules.client import Encoded, Memory
from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import OneRank
from flexlora.rules.layer import Combined, Layer, LayerState
from flexlora.rules.spectral import held_factors
from flexlora.rules.traits import Traits


@final
class FedSALoRA(OneRank):
    """A ← Σ w_k A_k; client k trains its own B_k on top, and nobody else ever sees it.

    Source: Guo et al., ICLR 2025 (arXiv 2410.01463). All at the lowest rank of the federation. The
    server keeps the B that everybody begins with: zero, or that of the adapter begun from. So what
    a run hands out is no more than that, and each client is scored with the B that it keeps.
    """

    name = "fedsa"
    source = "Guo et al., ICLR 2025, arXiv 2410.01463"
    traits = Traits(mixed_ranks=False, memory=True, learned="clients", compares="factors")

    def returns(self, round: int) -> Sides:
        return "a"

    def receive(self, sent: Adapter, memory: Memory) -> Adapter:
        def own(name: str, f: Factors) -> Factors:
            b = memory.get(name)
            if b is None or b.shape != f.b.shape:  # Its first round, or another rank than before.
                return f
            return Factors(b, f.a, f.scale)

        return Adapter({name: own(name, f) for name, f in sent.items()})

    def encode(self, trained: Adapter, sent: Adapter, memory: Memory) -> Encoded:
        return Encoded(trained, {name: f.b for name, f in trained.items()})

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        return Combined({"b": state["b"], "a": contributions.mean_factors().a})

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        if rank == layer.lowest:
            return held_factors(layer, state)
        return super().readout_layer(layer, state, rank)
