"""Multi-Krum: those farthest from their neighbours are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import final

from flexlora.options import require
from flexlora.screens.base import Screen
from flexlora.screens.hostile_share import Share, hostile_of, needed_of
from flexlora.screens.products import Products
from flexlora.screens.verdict import Verdict

_LEAST, _EACH = 3, 2  # Clients that it needs: so many, and these for each hostile one.


@final
@dataclass(frozen=True, eq=False)
class MultiKrum(Screen):
    """Leaves out the f of K clients of the largest score: the sum of their K − f − 2 smallest
    ‖change_i − change_j‖², f = hostile · K rounded down, one at least.

    Source: Blanchard, El Mhamdi, Guerraoui & Stainer 2017 (NeurIPS; arXiv 1703.02757), Multi-Krum
    with m = K − f. Deviation: distances are those of `Products`, over all layers. Needs
    K ≥ 2f + 3. It promises to leave out whoever is far from all others; who sends what lies among
    the honest stays, and an honest client whose data are like nobody's goes.
    """

    name = "multi_krum"
    source = "Blanchard et al. 2017, arXiv 1703.02757"

    hostile: Share = 0.2

    def __post_init__(self) -> None:
        require(self, f"screens.{self.name}")

    def needed(self, clients: int) -> int:
        return needed_of(self.hostile, clients, least=_LEAST, each=_EACH)

    def verdicts(self, products: Products) -> Mapping[str, Verdict]:
        count = len(products.clients)
        hostile = hostile_of(self.name, self.hostile, count, least=_LEAST, each=_EACH)
        apart = products.distances.fill_diagonal_(float("inf"))
        near = apart.sort(dim=1).values[:, : count - hostile - 2]
        scores = dict(zip(products.clients, near.sum(dim=1).tolist(), strict=True))
        usual = median(scores.values())
        farthest = sorted(products.clients, key=lambda client: (-scores[client], client))
        return {
            client: Verdict(
                weight=0.0,
                reason=f"its distance to the {count - hostile - 2} changes nearest to it is among "
                f"the {hostile} largest of {count}, {_times(scores[client], usual)} the median",
            )
            for client in farthest[:hostile]
        }


def _times(score: float, usual: float) -> str:
    return f"{(score / usual) ** 0.5:.2f} times" if usual > 0.0 else "above"
