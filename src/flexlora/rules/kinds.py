"""What rules that keep the same kind of state have in common; each adds how a round is combined.

`Replaced`: a spectrum that every round replaces. `Kept`: all that was ever learned. `Padded`: one
large adapter, of which clients train the first rows. `OneRank`: factors of the lowest rank.
"""

from __future__ import annotations

from torch import Tensor

from flexlora.adapters import Factors, best_factors, factors_of
from flexlora.lowrank import LowRank, Split
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.padded import first_rows
from flexlora.rules.rule import Rule
from flexlora.rules.spectral import (
    empty_factors,
    empty_state,
    held_factors,
    held_in,
    spectrum_of,
    values_of,
    warm_factors,
    warm_state,
)
from flexlora.rules.uncut import best_part


class Replaced(Rule):
    """A spectrum, replaced each round; a client is sent its best part of its rank."""

    split: Split = "left"

    def init_layer(self, layer: Layer) -> LayerState:
        return empty_state(layer)

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        return Combined(warm_state(layer, start))

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        rank, fresh = client.rank(layer), state["fresh"]
        return factors_of(spectrum_of(state), rank, layer.scale(rank), fill=fresh, split=self.split)

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return spectrum_of(state).low_rank()

    def singular_values_layer(self, layer: Layer, state: LayerState) -> Tensor:
        return state["s"]

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        return factors_of(spectrum_of(state), rank, layer.scale(rank))


class Kept(Rule):
    """All that was learned, never cut; where Δ is used it begins with all of a warm start."""

    def init_layer(self, layer: Layer) -> LayerState:
        return empty_state(layer)

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        state = warm_state(layer, start)
        frozen = None if self.traits.delta == "none" else held_in(state).low_rank()
        return Combined(state, frozen)

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return held_in(state).low_rank()

    def singular_values_layer(self, layer: Layer, state: LayerState) -> Tensor:
        return values_of(held_in(state))

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        return best_part(layer, state, rank)


class Padded(Rule):
    """One adapter of the highest rank at one scale; a client trains its first rows.

    What is read out is the methods' own cut, not the best approximation.
    """

    def init_layer(self, layer: Layer) -> LayerState:
        return empty_factors(layer, layer.highest)

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        return Combined(warm_factors(layer, layer.highest, start))

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        return self.whole(layer, state).cut(client.rank(layer))

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return self.whole(layer, state).product()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        return first_rows(self.whole(layer, state), rank)

    def whole(self, layer: Layer, state: LayerState) -> Factors:
        """All rows, at the federation's scale of that rank."""
        return held_factors(layer, state)


class OneRank(Rule):
    """Factors of the federation's lowest rank, sent as they are."""

    def init_layer(self, layer: Layer) -> LayerState:
        return empty_factors(layer, layer.lowest)

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        return Combined(warm_factors(layer, layer.lowest, start))

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        return held_factors(layer, state)

    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        return held_factors(layer, state).product()

    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        return best_factors(self.learned_layer(layer, state), rank, layer.scale(rank))
