"""FLoRIST: the stack of the clients' factors, thinned by energy, into the base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

from flexlora.adapters import Factors
from flexlora.lowrank import LowRank, Matrix, Spectrum, svd
from flexlora.options import Option, require
from flexlora.rules.contributions import Contributions
from flexlora.rules.flora import fresh_adapter
from flexlora.rules.kinds import Kept
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.spectral import (
    exact_state,
    held_in,
    plus,
)
from flexlora.rules.traits import Traits


@final
@dataclass(frozen=True, eq=False)
class FLoRIST(Kept):
    """U S Vᵀ ← SVD of Σ w_k s_k B_k A_k; Δ ← Δ + its first p directions, which hold the share τ of
    the energy Σ σ²; every round trains a fresh adapter on top of Δ.

    Source: FLoRIST, MLSys 2026 (arXiv 2506.09199): one adapter of rank p per layer travels in place
    of FLoRA's stack. The SVD is that of the stacks' thin factors, never of the layer's matrix
    (unless Σ r_k exceeds it). What is left out is lost, by design. Deviation: as in `flora`, all
    clients of a round share the first rows of one fresh A.
    """

    name = "florist"
    source = "MLSys 2026, arXiv 2506.09199"
    traits = Traits(delta="restart", exact=False)

    energy: Annotated[
        float, Option("τ: share of the sum's energy that is kept", above=0.0, most=1.0)
    ] = 0.9

    def __post_init__(self) -> None:
        require(self, "rule")

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        return fresh_adapter(layer, state, client)

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        step = self._thinned(contributions.sum())
        held = plus(held_in(state), step)
        return Combined(exact_state(state["fresh"], held), held.low_rank(), step)

    def _thinned(self, whole: Matrix) -> LowRank:
        spectrum: Spectrum = svd(whole)
        return spectrum.truncate(spectrum.rank_for(self.energy)).kept.low_rank()
