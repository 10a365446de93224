"""FSLoRA: every client trains its own random choice of the rows of one large adapter."""

from __future__ import annotations

from typing import final

from flexlora.adapters import Factors, best_factors
from flexlora.lowrank import LowRank
from flexlora.rules.contributions import Contributions
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.padded import drawn_rows, drawn_seed, rows_of
from flexlora.rules.rule import Rule
from flexlora.rules.spectral import empty_factors, held_factors, warm_factors
from flexlora.rules.traits import Traits


@final
class FSLoRA(Rule):
    """B ← B + Σ w_k (B_k − B P_k), A ← A + Σ w_k (A_k − P_k A), each in the columns that P_k chose.

    Client k trains s B S_k A, S_k = (R/r_k) P_k, where P_k keeps r_k of the R columns, drawn anew
    for each client, layer and round: the expectation of S_k is the identity. R/r_k stands in the
    scale of what is sent, beside α of the federation's highest rank. Columns that nobody chose stay
    as they are; those that few chose move by their weights' share, not by the mean over them.
    Source: Fang et al., ICML 2026 (arXiv 2501.19389), whose released code never applies the mask:
    every client trains all columns there.
    """

    name = "fslora"
    source = "Fang et al., ICML 2026, arXiv 2501.19389"
    traits = Traits(needs="each", sends="client", scales="rule", compares="factors")

    def init_layer(self, layer: Layer) -> LayerState:
        return {**empty_factors(layer, layer.highest), "seed": drawn_seed(layer)}

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        return Combined({**warm_factors(layer, layer.highest, start), "seed": drawn_seed(layer)})

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        whole, rank = held_factors(layer, state), client.rank(layer)
        rows = drawn_rows(layer, state, client.id, rank)
        return rows_of(whole, rows, whole.scale * whole.rank / rank)

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        b, a = state["b"].clone(), state["a"].clone()
        for c in contributions.each():
            rows, trained = drawn_rows(layer, state, c.client, c.rank), c.trained
            b[:, rows] += c.weight * (trained.b.float() - c.sent.b)
            a[rows] += c.weight * (trained.a.float() - c.sent.a)
        return Combined({**state, "b": b, "a": a})

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return held_factors(layer, state).product()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        """The best part of the whole adapter: which columns a client would use is chance."""
        return best_factors(self.learned_layer(layer, state), rank, layer.scale(rank))
