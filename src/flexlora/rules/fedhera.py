"""FedHera: the increment form as it was published, with bytes shared out among layers by energy."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, final

from flexlora.adapters import Factors
from flexlora.options import Option, require
from flexlora.rules.contributions import Contributions
from flexlora.rules.directions import sent_directions
from flexlora.rules.kinds import Kept
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState, Spec
from flexlora.rules.spectral import held_in
from flexlora.rules.traits import Traits
from flexlora.rules.uncut import grown, sendable

_NUMBER = 4  # Bytes of a float32.


@final
@dataclass(frozen=True, eq=False)
class FedHera(Kept):
    """ΔW ← ΔW + Σ w_k (s_k B'_k A'_k − s_k B_k A_k); Δ is the part of ΔW that fits a byte budget.

    Directions are taken in order of σ² per byte, over all layers, until `budget_mb` is spent. A
    client trains the first r_k of each layer, the rest of Δ is a frozen tail in its base.
    Source: FedHera, ICML 2026, from its released code, whose server holds ΔW as a dense matrix.
    Ours is `flexlora-increment` of `directions` "top" with a budget: state in factored form, Δ for
    clients that were away. Deviations: the budget is the federation's, not each client's, as Δ is
    one for all (what clients train is always in it); the tail's weight λ is 1, as there by default.
    """

    name = "fedhera"
    source = "FedHera, ICML 2026"
    traits = Traits(delta="origin")

    budget_mb: Annotated[
        float, Option("MB of Δ in float32 over all layers", above=0.0, most=1e6)
    ] = 4.0

    def __post_init__(self) -> None:
        require(self, "rule")

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        return sent_directions(layer, state, client, sendable(state), "top", "left")

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        after = grown(layer, state, contributions.sum(), self._most(layer))
        return Combined(after, frozen=held_in(after).low_rank())

    def settle(self, spec: Spec, combined: Mapping[str, Combined]) -> Mapping[str, Combined]:
        spectra = {name: sendable(x.state) for name, x in combined.items()}
        ranks = _shared_out(
            {name: spectrum.s.tolist() for name, spectrum in spectra.items()},
            {x.name: _NUMBER * (x.m + x.n) for x in spec.layers},
            spec.highest,
            self.budget_mb * 1e6,
        )
        return {
            name: replace(x, frozen=spectra[name].truncate(ranks[name]).kept.low_rank())
            for name, x in combined.items()
        }

    def _most(self, layer: Layer) -> int:
        """The largest rank of Δ that the budget allows in this layer alone."""
        affordable = int(self.budget_mb * 1e6 / (_NUMBER * (layer.m + layer.n)))
        return max(layer.highest, min(affordable, layer.m, layer.n))


def _shared_out(
    values: Mapping[str, list[float]],
    costs: Mapping[str, int],
    least: Mapping[str, int],
    budget: float,
) -> dict[str, int]:
    """Layer → how many of its directions, from `least` on, as long as the budget lasts.

    values: σ in descending order; costs: bytes of one direction.
    """
    ranks = {name: min(least[name], len(values[name])) for name in values}
    left = budget - sum(costs[name] * rank for name, rank in ranks.items())
    ahead = [
        (-(sigma**2) / costs[name], name, rank)
        for name, found in values.items()
        for rank, sigma in enumerate(found[ranks[name] :], start=ranks[name] + 1)
    ]
    heapq.heapify(ahead)
    while ahead:
        _, name, rank = heapq.heappop(ahead)
        left -= costs[name]
        if left < 0.0:
            break
        ranks[name] = rank
    return ranks
