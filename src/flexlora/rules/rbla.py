"""RBLA: every row of the adapter is the mean over the clients that own it."""

from __future__ import annotations

from typing import final

from flexlora.adapters import Factors
from flexlora.lowrank import LowRank
from flexlora.rules.contributions import Contributions
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.padded import first_rows, row_sums
from flexlora.rules.rule import Rule
from flexlora.rules.spectral import empty_factors, held_factors, warm_factors
from flexlora.rules.traits import Traits


@final
class RBLA(Rule):
    """b_j ← Σ_{k: r_k ≥ j} w_k b_kj / Σ_{k: r_k ≥ j} w_k, and so a_j; a client is sent the first
    r_k rows.

    Source: Chen et al. (arXiv 2408.08699): what a client
    lacks is not padded but left out of the mean. Rows that no client of the round owns stay as they
    are. Deviation: one scale for all, α of the federation's highest rank (with a scale by rank a
    row would mean something else at every client, which the paper does not speak of).
    """

    name = "rbla"
    source = "Chen et al., arXiv 2408.08699"
    traits = Traits(needs="each", scales="rule", compares="factors")

    def init_layer(self, layer: Layer) -> LayerState:
        return empty_factors(layer, layer.highest)

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        return Combined(warm_factors(layer, layer.highest, start))

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        return held_factors(layer, state).cut(client.rank(layer))

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        return Combined(row_sums(contributions, state["a"].shape[0]).mean(state))

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return held_factors(layer, state).product()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        """The method's own cut (the first rows), not the best approximation."""
        return first_rows(held_factors(layer, state), rank)
