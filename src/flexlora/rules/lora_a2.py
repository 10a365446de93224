"""LoRA-A²: one side moves at a time, and clients train the parts that move most."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from flexlora.adapters import Factors, Sides, best_factors
from flexlora.lowrank import LowRank
from flexlora.rules.contributions import Contributions
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.padded import rows_of, stepped
from flexlora.rules.rule import Rule
from flexlora.rules.spectral import empty_factors, held_factors, warm_factors
from flexlora.rules.traits import Traits


@final
class LoRAA2(Rule):
    """Odd rounds: B ← B + Σ w_k ΔB_k; even rounds: A ← A + Σ w_k ΔA_k, in the parts each trained.

    A client trains the r_k rank-one parts of largest score ‖Δb_j‖ ‖a_j‖ (even rounds:
    ‖b_j‖ ‖Δa_j‖), with the whole adapter in its base. Source: Koo et al., ACL 2025
    (arXiv 2410.22815). Deviation: there each client scores the parts by training all of them first,
    which costs it the memory of the highest rank; here the score is what the federation's last
    round that trained a part moved it by, the mean over who trained it. Parts that nobody has
    trained yet come first, except those whose other side is zero: they have no gradient, come last
    and keep their score. All parts travel in Δ, as for `fed-plora`.
    """

    name = "lora-a2"
    source = "Koo et al., ACL 2025, arXiv 2410.22815"
    traits = Traits(needs="each", delta="origin", scales="rule", compares="factors")

    def trains(self, round: int) -> Sides:
        return "b" if round % 2 else "a"

    def init_layer(self, layer: Layer) -> LayerState:
        return {**empty_factors(layer, layer.highest), "score": _unknown(layer)}

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        state = {**warm_factors(layer, layer.highest, start), "score": _unknown(layer)}
        return Combined(state, frozen=self.learned_layer(layer, state))

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        whole = held_factors(layer, state)
        return rows_of(whole, self._rows(layer, state, client.rank(layer)), whole.scale)

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        b, a, score = (state[key].clone() for key in ("b", "a", "score"))
        moved, shares = torch.zeros_like(score), torch.zeros_like(score)
        for c in contributions.each():
            rows, trained = self._rows(layer, state, c.rank), c.trained
            if self.trains(layer.round) == "b":
                change = trained.b.float() - c.sent.b
                b[:, rows] += c.weight * change
                by = change.norm(dim=0) * state["a"][rows].norm(dim=1)
            else:
                change = trained.a.float() - c.sent.a
                a[rows] += c.weight * change
                by = change.norm(dim=1) * state["b"][:, rows].norm(dim=0)
            moved[rows] += c.weight * by
            shares[rows] += c.weight
        there = (shares > 0.0) & self._alive(layer, state)
        score = torch.where(there, moved / torch.where(there, shares, 1.0), score)
        after = {"b": b, "a": a, "score": score}
        now = held_factors(layer, after)
        return Combined(after, now.product(), stepped(held_factors(layer, state), now))

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return held_factors(layer, state).product()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        """The best part of the whole adapter."""
        return best_factors(self.learned_layer(layer, state), rank, layer.scale(rank))

    def _rows(self, layer: Layer, state: LayerState, rank: int) -> Tensor:
        """The parts of largest score, in their order; the first ones where scores are equal."""
        score = torch.where(self._alive(layer, state), state["score"], -1.0)
        return score.argsort(descending=True, stable=True)[:rank].sort().values

    def _alive(self, layer: Layer, state: LayerState) -> Tensor:
        """The parts that training can move: the side that rests in this round is not zero."""
        return state["a"].any(dim=1) if self.trains(layer.round) == "b" else state["b"].any(dim=0)


def _unknown(layer: Layer) -> Tensor:
    """More than any score, and finite: what nobody has trained yet."""
    return torch.full((layer.highest,), torch.finfo(torch.float32).max)
