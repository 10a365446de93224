"""Fed-PLoRA: rank-one modules at one scale; a client trains some, the others are in its base."""

from __future__ import annotations

from typing import final

import torch

from flexlora.adapters import Factors, best_factors
from flexlora.lowrank import LowRank
from flexlora.rules.contributions import Contributions
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.padded import RowSums, drawn_rows, drawn_seed, rows_of, stepped
from flexlora.rules.rule import Rule
from flexlora.rules.spectral import empty_factors, held_factors, warm_factors
from flexlora.rules.traits import Traits


@final
class FedPLoRA(Rule):
    """b_j ← Σ w_k b_kj / Σ w_k over the clients that trained module j, and so a_j.

    Client k trains r_k of the R modules, drawn anew each round, at the scale α of rank R, and has
    the other R − r_k folded into its base (Select-N-Fold), so it starts from the whole adapter
    whatever its rank. Source: Zhang et al., ICLR 2026 (arXiv 2602.16936). Deviation: all modules
    travel in Δ (to who holds the last one, what moved if that is smaller), those that a client
    trains once more as what it trains: (R + r_k)(m + n) numbers where R (m + n) would do. Modules
    that nobody trained stay as they are.
    """

    name = "fed-plora"
    source = "Zhang et al., ICLR 2026, arXiv 2602.16936"
    traits = Traits(needs="each", delta="origin", sends="client", scales="rule", compares="factors")

    def init_layer(self, layer: Layer) -> LayerState:
        return {**empty_factors(layer, layer.highest), "seed": drawn_seed(layer)}

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        state = {**warm_factors(layer, layer.highest, start), "seed": drawn_seed(layer)}
        return Combined(state, frozen=self.learned_layer(layer, state))

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        whole = held_factors(layer, state)
        return rows_of(whole, drawn_rows(layer, state, client.id, client.rank(layer)), whole.scale)

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        rank = state["a"].shape[0]
        b, a = torch.zeros_like(state["b"]), torch.zeros_like(state["a"])
        shares = torch.zeros(rank, dtype=torch.float64)
        for c in contributions.each():
            rows, trained = drawn_rows(layer, state, c.client, c.rank), c.trained
            b[:, rows] += c.weight * trained.b.float()
            a[rows] += c.weight * trained.a.float()
            shares[rows] += c.weight
        after = RowSums(b, a, shares, rank).mean(state)
        now = held_factors(layer, after)
        return Combined(after, now.product(), stepped(held_factors(layer, state), now))

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return held_factors(layer, state).product()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        """The best part of the whole adapter."""
        return best_factors(self.learned_layer(layer, state), rank, layer.scale(rank))
