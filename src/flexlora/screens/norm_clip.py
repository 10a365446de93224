"""Clipping: no change is longer than a few times the round's median."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Annotated, final

from flexlora.options import Option, require
from flexlora.screens.base import Screen
from flexlora.screens.products import Products
from flexlora.screens.verdict import Verdict


@final
@dataclass(frozen=True, eq=False)
class NormClip(Screen):
    """change_k ← change_k · min(1, M / ‖change_k‖_F), with M = factor × the median norm of a round.

    Source: Sun, Kairouz, Suresh & McMahan 2019 (arXiv 1911.07963), norm thresholding. Deviations:
    M follows the round, where theirs is a constant; changes are those of the clients' products over
    all layers, so that no turn of the factors hides one, and beside them, under rules that average
    factors, those of the factors (see `Products`). Where half of the changes are zero, nothing is
    clipped.
    """

    name = "norm_clip"
    source = "Sun et al. 2019, arXiv 1911.07963"

    factor: Annotated[
        float, Option("of the median above which a change is shrunk", above=0.0, most=1e6)
    ] = 3.0

    def __post_init__(self) -> None:
        require(self, f"screens.{self.name}")

    def verdicts(self, products: Products) -> Mapping[str, Verdict]:
        norms = products.norms
        most = self.factor * median(norms.values())
        if most == 0.0:
            return {}
        return {c: Verdict(shrink=most / norm) for c, norm in norms.items() if norm > most}
