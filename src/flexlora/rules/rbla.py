"""RBLA: every row of the adapter is the mean over the clients that own it."""

from __future__ import annotations

from typing import final

from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import Padded
from flexlora.rules.layer import Combined, Layer, LayerState
from flexlora.rules.padded import row_sums
from flexlora.rules.traits import Traits


@final
class RBLA(Padded):
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

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        return Combined(row_sums(contributions, state["a"].shape[0]).mean(state))
