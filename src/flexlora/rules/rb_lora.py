"""RB-LoRA: balanced means of rank-one components, and their product's best parts to the clients."""

from __future__ import annotations

from typing import final

from torch import Tensor

from flexlora.adapters import Factors, factors_of
from flexlora.lowrank import LowRank, truncate
from flexlora.rules.contributions import Contributions
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.padded import row_sums
from flexlora.rules.rule import Rule
from flexlora.rules.spectral import empty_state, spectral_state, spectrum_of, warm_state
from flexlora.rules.traits import Traits


@final
class RBLoRA(Rule):
    """b_j ← Σ_{k: r_k ≥ j} w_k s_k b_kj / W_j, a_j ← Σ_{k: r_k ≥ j} w_k a_kj / W_j; ΔW ← B A; a
    client is sent the best part of its rank of it. W_j = Σ_{k: r_k ≥ j} w_k.

    Source: Ha et al., Findings of EACL 2026, from its published formula: components are balanced by
    1 / W_j, the share of the data whose clients hold component j, and the product is cut by SVD to
    each client's rank, as its released code does. Where the weights fall on products in place of
    factors, the same formula is `raflora`. Scales: s_k of each client stands in its b, so that
    products of different ranks are of one unit. As ΔW is replaced, directions beyond the highest
    rank of a round's clients are lost.
    """

    name = "rb-lora"
    source = "Ha et al., Findings of EACL 2026"
    traits = Traits(needs="each", compares="factors")

    def init_layer(self, layer: Layer) -> LayerState:
        return empty_state(layer)

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        return Combined(warm_state(layer, start))

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        rank = client.rank(layer)
        return factors_of(spectrum_of(state), rank, layer.scale(rank), fill=state["fresh"])

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        rank = layer.highest
        sums = row_sums(contributions, rank, scaled=True)
        mean = sums.mean({"b": sums.b, "a": sums.a})
        whole = LowRank(mean["b"], mean["a"])
        cut = truncate(whole, rank, layer.generator, start=state["vh"])
        return Combined(spectral_state(state["fresh"], cut.kept), certificate=cut.certificate)

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return spectrum_of(state).low_rank()

    def singular_values_layer(self, layer: Layer, state: LayerState) -> Tensor:
        return state["s"]

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        return factors_of(spectrum_of(state), rank, layer.scale(rank))
