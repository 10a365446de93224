"""Clipping: no change is longer than a few times the round's median."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import final

from flexlora.errors import ConfigError
from flexlora.screens.base import Screen
from flexlora.screens.products import Products
from flexlora.screens.verdict import Verdict


@final
class NormClip(Screen):
    """change_k ← change_k · min(1, M / ‖change_k‖_F), with M = factor × the median norm of a round.

    Source: Sun, Kairouz, Suresh & McMahan 2019 (arXiv 1911.07963), norm thresholding. Deviations:
    M follows the round, where theirs is a constant; norms are those of the clients' products over
    all layers, so that no turn of the factors hides a change. Where half of the changes are zero,
    nothing is clipped.
    """

    name = "norm_clip"
    source = "Sun et al. 2019, arXiv 1911.07963"

    def __init__(self, factor: float = 3.0) -> None:
        """`factor` of the median above which a change is shrunk, above 0."""
        if not 0.0 < factor < math.inf:
            raise ConfigError(f"screens.norm_clip.factor is {factor}; give a number above 0")
        self.factor = factor

    def verdicts(self, products: Products) -> Mapping[str, Verdict]:
        norms = products.norms
        most = self.factor * median(norms.values())
        if most == 0.0:
            return {}
        return {c: Verdict(shrink=most / norm) for c, norm in norms.items() if norm > most}
