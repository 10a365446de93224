"""FedHL: clients' changes upon the whole update, weighed by how much their rank cut off."""

from __future__ import annotations

from typing import final

from torch import Tensor

from flexlora.adapters import Factors, factors_of
from flexlora.lowrank import total
from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import Kept
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.spectral import held_in, values_of
from flexlora.rules.traits import Traits
from flexlora.rules.uncut import grown, sendable


@final
class FedHL(Kept):
    """ΔW ← Σ p_k (ΔW_k + (ΔW − [ΔW]_{r_k})): the mean after what was not sent is put back.

    As Σ p_k = 1 this is ΔW + Σ p_k (ΔW_k − [ΔW]_{r_k}), the increment form with other weights and
    without the rest of ΔW in the clients' base. Source: Peng et al. (arXiv 2505.18494), from its
    published formula. Deviation: the paper's p_k minimise the drift term of its bound, whose
    constants nobody knows beforehand; here p_k ∝ w_k / (1 + ε_k²) for each layer,
    ε_k = ‖ΔW − [ΔW]_{r_k}‖ / ‖ΔW‖: the more a rank cuts off, the less its client says. As ε_k ≤ 1,
    p_k lies between w_k / 2 and 2 w_k.
    """

    name = "fedhl"
    source = "Peng et al., arXiv 2505.18494"
    traits = Traits(needs="each")

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        rank = client.rank(layer)
        return factors_of(sendable(state), rank, layer.scale(rank), fill=state["fresh"])

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        each, energy = contributions.each(), values_of(held_in(state)).double().square()
        shares = [c.weight / (1.0 + _lost(energy, c.sent.rank)) for c in each]
        whole = sum(shares)
        changes = (
            (share / whole, c.trained.product() - c.sent.product())
            for c, share in zip(each, shares, strict=True)
        )
        width = contributions.width + sum(c.sent.rank for c in each)
        step = total(changes, contributions.shape, width)
        return Combined(grown(layer, state, step, layer.highest))


def _lost(energy: Tensor, rank: int) -> float:
    """ε²: the share of the energy outside the first `rank` directions; 0 where there is none."""
    whole = float(energy.sum())
    return float(energy[rank:].sum()) / whole if whole > 0.0 else 0.0
