"""Multi-Krum on products: the clients whose update lies closest to others' are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, final

from flexlora.options import Option
from flexlora.screens import Products, Screen, Verdict


@final
@dataclass(frozen=True, eq=False)
class FarOut(Screen):
    """Keeps all but `outliers` clients: those with the lowest sum of squared distances to their
    K − outliers − 2 nearest.

    Source: Blanchard et al., NeurIPS 2017 (arXiv 1703.02757). Distances are those of products over
    all layers; those that are kept keep their weights.
    """

    name = "far_out"
    source = "Blanchard et al., NeurIPS 2017, arXiv 1703.02757"

    outliers: Annotated[int, Option("clients that are left out", least=0)] = 1

    def verdicts(self, products: Products) -> Mapping[str, Verdict]:
        clients = products.clients
        near = max(1, len(clients) - self.outliers - 2)
        distances = products.distances.sort(dim=1).values[:, 1 : near + 1]
        order = distances.sum(dim=1).argsort(descending=True, stable=True).tolist()
        reason = "its update lies far from those of the others"
        gone = [clients[k] for k in order[: min(self.outliers, len(clients) - 1)]]
        return {client: Verdict(weight=0.0, reason=reason) for client in gone}
