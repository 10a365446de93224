"""W₀ + Δ of one layer, in the form that loses nothing and costs least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from flexlora.lowrank import LowRank
from flexlora.models.linear_like import is_matrix
from flexlora.models.widened import lacks_instructions

Form = Literal["merged", "dense", "branch"]


def form_of(base: nn.Module, delta: LowRank, *, tied: bool = False) -> Form:
    """How a layer had best stand on W₀ + Δ.

    merged: in the weight itself, of a float32 or float64 layer. Fewer bits would lose small deltas,
    and a weight that is tied, another module's too, would change that one; so of these: branch, by
    Δ's factors, as long as they are fewer numbers than the layer has; dense, as W₀ + Δ in float32
    or better beside W₀, where they are not. That takes no more memory than the factors would, and
    one product where base and branch are two. Where W₀ is made float32 for its product anyway, half
    as many numbers suffice: what then is one product was one and a half.
    """
    weight = base.weight
    assert isinstance(weight, Tensor)
    m, n = delta.shape
    # Four bits are packed into anything.
    exact = weight.dtype in (torch.float32, torch.float64)
    if exact and not tied and weight.numel() == m * n:
        return "merged"
    if not is_matrix(base):
        return "branch"
    many = m * n / 2 if lacks_instructions(weight) else m * n
    return "dense" if delta.width * (m + n) >= many else "branch"


@dataclass(frozen=True)
class Standing:
    """On what a layer stands beside its weight, which has Δ in it where the form is merged.

    factors: (right, left) of Δ, where that is a branch; matrix: W₀ + Δ, where that is dense; both
    in the dtype of adapters.
    """

    delta: LowRank
    form: Form
    factors: tuple[Tensor, Tensor] | None = None
    matrix: Tensor | None = None

    @staticmethod
    def on(
        base: nn.Module, pristine: Tensor, delta: LowRank, form: Form, dtype: torch.dtype
    ) -> Standing:
        """pristine: the weight without any Δ; dtype: that of adapters."""
        if form == "branch":
            return Standing(delta, form, factors=factors_of(delta, pristine.device, dtype))
        matrix = summed(base, pristine, delta, dtype) if form == "dense" else None
        return Standing(delta, form, matrix=matrix)


def factors_of(delta: LowRank, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(right, left), as a branch has them."""
    right, left = (x.detach().to(device, dtype) for x in (delta.right, delta.left))
    return right, left


def summed(base: nn.Module, weight: Tensor, delta: LowRank, dtype: torch.dtype) -> Tensor:
    """weight + Δ in this dtype, as `base` has its weights: Conv1D's are (n, m)."""
    left = delta.left.detach().to(weight.device, dtype)
    right = delta.right.detach().to(weight.device, dtype)
    change = left @ right if isinstance(base, nn.Linear) else right.T @ left.T
    return change.add_(weight)
