"""RB-LoRA: balanced means of rank-one components, and their product's best parts to the clients."""

from __future__ import annotations

from typing import final

from flexlora.lowrank import LowRank, truncate
from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import Replaced
from flexlora.rules.layer import Combined, Layer, LayerState
from flexlora.rules.padded import row_sums
from flexlora.rules.spectral import spectral_state
from flexlora.rules.traits import Traits


@final
class RBLoRA(Replaced):
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

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        rank = layer.highest
        sums = row_sums(contributions, rank, scaled=True)
        mean = sums.mean({"b": sums.b, "a": sums.a})
        whole = LowRank(mean["b"], mean["a"])
        cut = truncate(whole, rank, layer.generator)
        return Combined(spectral_state(state["fresh"], cut.kept), certificate=cut.certificate)
