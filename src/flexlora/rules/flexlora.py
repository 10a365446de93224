"""FlexLoRA: the exact weighted sum of products, cut by SVD to each client's rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

from flexlora.lowrank import LowRank, Spectrum, Split, truncate
from flexlora.options import Option, require
from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import Replaced
from flexlora.rules.layer import Combined, Layer, LayerState
from flexlora.rules.spectral import (
    added,
    spectral_state,
    spectrum_of,
)
from flexlora.rules.traits import Traits


@final
@dataclass(frozen=True, eq=False)
class FlexLoRA(Replaced):
    """ΔW ← Σ w_k s_k B_k A_k, each round anew; a client of rank r is sent its best rank-r part.

    Source: Bai et al., NeurIPS 2024 (arXiv 2402.11505), steps 3 to 5. Kept of the sum is what any
    client can be sent: its best part of the federation's highest rank, within 1e-5 of the best
    possible distance as `truncate` measures it (exactly the best where the ranks' sum is small).
    Where fewer than r directions have been learned, the rest of A is the shared initial A with
    B = 0, which leaves the product unchanged (the paper does not say). That part is the "full
    state" that is scored; the rest of the sum is lost (each round's `cut` says how much).
    Known flaw, kept: the energy outside the smallest rank dies round by round (arXiv 2602.13486).

    `retention` ρ above 0 mends it, and is ours: to the sum is added ρ U diag((1 − p_j) σ_j) Vᵀ,
    U σ V the state before the round and p_j the weights of the clients with r_k ≥ j, summed: with
    ρ = 1 a direction is multiplied by p_j + (1 − p_j) where nobody trains it. No byte more travels.
    """

    name = "flexlora"
    source = "Bai et al., NeurIPS 2024, arXiv 2402.11505"
    traits = Traits()

    split: Annotated[
        Split, Option("where singular values go: all into what is sent as B (the paper), or half")
    ] = "left"

    retention: Annotated[
        float,
        Option(
            "ρ: how much stays of what clients of lower rank were not sent; 0: none, as published",
            least=0.0,
            most=1.0,
        ),
    ] = 0.0

    def __post_init__(self) -> None:
        require(self, "rule")

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        rank = layer.highest
        whole = contributions.sum(rank)
        if self.retention > 0.0:
            whole = added(whole, self._retained(spectrum_of(state), contributions))
        cut = truncate(whole, rank, layer.generator)
        return Combined(spectral_state(state["fresh"], cut.kept), certificate=cut.certificate)

    def _retained(self, before: Spectrum, contributions: Contributions) -> LowRank:
        """What a round takes from the directions that not all of its clients were sent."""
        missing = 1.0 - contributions.shares(before.rank)
        values = self.retention * missing.clamp(min=0.0).to(before.s) * before.s
        return Spectrum(before.u, values, before.vh).low_rank()
