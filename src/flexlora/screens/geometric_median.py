"""The geometric median: the point with the least sum of distances to all changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, final

import torch

from flexlora.options import Option, require
from flexlora.screens.base import Screen
from flexlora.screens.products import Products
from flexlora.screens.verdict import Verdict

_SMALLEST = 1e-6  # Of the median distance: a change at the median itself has no infinite weight.


@final
@dataclass(frozen=True, eq=False)
class GeometricMedian(Screen):
    """The mean becomes argmin_z Σ p_k ‖change_k − z‖, p_k the rule's weights.

    Weiszfeld's iteration keeps z a mean of the changes, with weights p_k / max(‖change_k − z‖, ν)
    brought to a sum of 1, so that inner products are all it needs, and a client's weight is all it
    changes.

    Source: Pillutla, Kakade & Harchaoui 2022 (IEEE TSP; arXiv 1912.13445), RFA, the smoothed
    Weiszfeld algorithm. Deviations: distances are those of `Products`, over all layers;
    ν is 1e-6 of the median distance. Breaks down at half of the weight, whatever the other half
    sends; a lie as long as an honest change moves it, though no further than a long one would.
    Under a rule that weighs by norms (`hetlora`), norm_clip has to stand before it. Nobody is left
    out, so what a rule does besides taking a mean is done with all.
    """

    name = "geometric_median"
    source = "Pillutla et al. 2022, arXiv 1912.13445"

    iterations: Annotated[int, Option("of Weiszfeld's algorithm", least=1, most=1000)] = 50

    def __post_init__(self) -> None:
        require(self, f"screens.{self.name}")

    def verdicts(self, products: Products) -> Mapping[str, Verdict]:
        gram, squares = products.gram, products.gram.diagonal()
        given = torch.tensor([products.weights[c] for c in products.clients], dtype=torch.float64)
        weights = given
        for _ in range(self.iterations):
            across = gram @ weights
            apart = (squares - 2.0 * across + weights @ across).clamp_(min=0.0).sqrt()
            if not (usual := float(apart.median())):
                break  # Half of the changes are where it is.
            weights = given / apart.clamp(min=_SMALLEST * usual)
            weights = weights / weights.sum()
        factors = torch.where(given > 0.0, weights / given, torch.ones_like(given))
        factors = factors / factors.max()
        return {
            client: Verdict(weight=factor)
            for client, factor in zip(products.clients, factors.tolist(), strict=True)
            if factor < 1.0
        }
