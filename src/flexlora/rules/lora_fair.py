"""LoRA-FAIR: the mean of the factors, and then a B that makes good what that mean loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor

from flexlora.lowrank import lapack_eigh
from flexlora.options import Option, require
from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import Padded
from flexlora.rules.layer import Combined, Layer, LayerState
from flexlora.rules.padded import row_sums
from flexlora.rules.traits import Traits


@final
@dataclass(frozen=True, eq=False)
class LoRAFAIR(Padded):
    """A ← Ā, B ← B̄ + argmin_E ‖Σ w_k B_k A_k − (B̄ + E) Ā‖² + λ ‖E‖²: factors' means, B corrected.

    E = (Σ w_k B_k A_k Āᵀ − B̄ Ā Āᵀ)(Ā Āᵀ + λ I)⁻¹, solved in float64; no layer's matrix is formed.
    B Ā is never farther from Σ w_k B_k A_k than B̄ Ā is, whatever λ.
    Source: Bian et al., ICCV 2025 (arXiv 2411.14961). Deviations: the paper maximises the cosine of
    the two products by gradient steps, where least squares has this closed form; clients of
    lower rank are padded with zeros, rows that none of the round owns stay, and all share
    one scale, α of the federation's highest rank.
    """

    name = "lora-fair"
    source = "Bian et al., ICCV 2025, arXiv 2411.14961"
    traits = Traits(needs="each", scales="rule", compares="factors")

    weight: Annotated[float, Option("λ: how much B's correction costs", above=0.0, most=1e6)] = 0.01

    def __post_init__(self) -> None:
        require(self, "rule")

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        sums = row_sums(contributions, state["a"].shape[0])
        padded = sums.padded(state)
        b, a = padded["b"], padded["a"]
        mean_b, mean_a = b[:, : sums.owned].double(), a[: sums.owned].double()
        gram = mean_a @ mean_a.T
        lost = -mean_b @ gram
        for c in contributions.each():
            trained = c.trained
            lost += c.weight * trained.b.double() @ (trained.a.double() @ mean_a.T)
        b[:, : sums.owned] = (mean_b + _solved(lost, gram, self.weight)).float()
        return Combined({"b": b, "a": a})


def _solved(right: Tensor, gram: Tensor, weight: float) -> Tensor:
    """right (gram + weight · I)⁻¹; directions that Ā lacks, as rows that repeat do, are left alone.

    There `right` is zero but for rounding, which a small weight would blow up.
    """
    values, vectors = lapack_eigh(gram)
    least = values[-1] * len(values) * torch.finfo(torch.float64).eps
    inverse = torch.where(values > least, 1.0 / (values + weight), 0.0)
    solved: Tensor = (right @ vectors * inverse) @ vectors.T
    return solved
