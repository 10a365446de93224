"""raFLoRA: FlexLoRA whose every rank slice is averaged over the clients that own it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch

from flexlora.lowrank import LowRank, total, truncate
from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import Replaced
from flexlora.rules.layer import Combined, Layer, LayerState
from flexlora.rules.spectral import spectral_state
from flexlora.rules.traits import Traits


@final
class RaFLoRA(Replaced):
    """ΔW ← Σ_j Σ_{k: r_k ≥ j} (w_k / W_j) s_k b_kj a_kj, W_j = Σ_{k: r_k ≥ j} w_k; then cut.

    A direction that few can train is no longer multiplied by their share each round, so it does not
    die (FlexLoRA's rank collapse) as long as each round has an owner of it: ΔW is replaced, so
    directions beyond the highest rank of a round's clients are lost, as in FlexLoRA. It assumes
    that direction j means the same to all its owners: their factors' slices are summed, not only
    their products. Source: Wu et al. (arXiv 2602.13486).
    """

    name = "raflora"
    source = "Wu et al., arXiv 2602.13486"
    traits = Traits(needs="each", compares="factors")

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        rank, slices = layer.highest, _sliced(contributions)
        whole = total(slices, contributions.shape, contributions.width, rank)
        cut = truncate(whole, rank, layer.generator)
        return Combined(spectral_state(state["fresh"], cut.kept), certificate=cut.certificate)


def _sliced(contributions: Contributions) -> Iterator[tuple[float, LowRank]]:
    """What the sum is made of: w_k s_k, and the client's product with its columns over W_j."""
    each = contributions.each()
    shares = contributions.shares(max(c.rank for c in each))
    owned = torch.where(shares > 0.0, shares, 1.0).float()
    for c in each:
        trained = c.trained
        yield c.weight * trained.scale, LowRank(trained.b / owned[: c.rank], trained.a)
