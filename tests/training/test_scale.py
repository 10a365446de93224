"""What a rank gains in its first step under each scaling, in closed form."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from flexlora.adapters import Scaling, lora_scale
from flexlora.training import Recipe
from flexlora.training.recipe import Optimiser
from flexlora.training.visit import make_optimiser

M, N, ALPHA, RATE, ANCHOR = 12, 16, 8.0, 1e-3, 2
RANKS = (2, 4, 8)


def directions() -> tuple[torch.Tensor, torch.Tensor]:
    """G = ∂loss/∂W, and A; the noise in G keeps every entry of G Aᵀ away from zero."""
    draw = torch.Generator().manual_seed(0)
    a = (torch.randint(2, (max(RANKS), N), generator=draw) * 2 - 1).double()
    g = (torch.randint(2, (M, N), generator=draw) * 2 - 1).double()
    return g + 0.01 * torch.randn(M, N, generator=draw, dtype=torch.float64), a


def first_gain(optimiser: Optimiser, scale: float, a: torch.Tensor) -> float:
    """What one step from B = 0 takes off the loss ⟨G, s · B A⟩, with the optimiser of clients."""
    g, _ = directions()
    b = torch.nn.Parameter(torch.zeros(M, a.shape[0], dtype=torch.float64))
    moved = torch.nn.Parameter(a.clone())
    steps = make_optimiser([b, moved], Recipe(optimiser, RATE, 1))
    (g * (scale * b @ moved)).sum().backward()
    steps.step()
    assert torch.equal(moved, a)  # Its gradient is zero as long as B is.
    return -float((g * (scale * b @ moved)).sum().detach())


@pytest.mark.parametrize("scaling", ["lora", "rslora", "anchored"])
@pytest.mark.parametrize("rank", RANKS)
def test_the_first_step_of_adam_gains_rate_times_scale_times_the_sum_over_its_directions(
    scaling: Scaling, rank: int
) -> None:
    """lr · s · Σ|G Aᵀ|, a sum of m · r terms; SGD: lr · s² · ‖G Aᵀ‖²."""
    g, a = directions()
    scale = lora_scale(ALPHA, rank, scaling, ANCHOR)
    part = g @ a[:rank].T
    adam, sgd = (first_gain(kind, scale, a[:rank]) for kind in ("adamw", "sgd"))
    assert adam == pytest.approx(RATE * scale * float(part.abs().sum()), rel=1e-6)
    assert sgd == pytest.approx(RATE * scale**2 * float(part.square().sum()), rel=1e-9)


@pytest.mark.parametrize(
    ("scaling", "adam", "sgd"),
    [
        ("lora", 0.0, -1.0),  # Rank is worth nothing under Adam, and costs under SGD.
        ("rslora", 0.5, 0.0),
        ("anchored", 0.5, 0.0),
    ],
)
def test_a_rank_pays_its_root_under_adam_unless_the_scale_takes_it_away(
    scaling: Scaling, adam: float, sgd: float
) -> None:
    """With one row of A repeated, Σ|G Aᵀ| ∝ r: what a rank gains is r to a power, by scaling."""
    row = directions()[1][:1]
    for rank in RANKS:
        powers: dict[Optimiser, float] = {"adamw": adam, "sgd": sgd}
        for kind, power in powers.items():
            low, high = (
                first_gain(kind, lora_scale(ALPHA, r, scaling, ANCHOR), row.expand(r, -1))
                for r in (ANCHOR, rank)
            )
            assert high / low == pytest.approx((rank / ANCHOR) ** power, rel=1e-6)


def test_the_lowest_rank_gains_the_same_anchored_or_not() -> None:
    row = directions()[1][:1].expand(ANCHOR, -1)
    for kind in get_args(Optimiser):
        mine, papers = (
            first_gain(kind, lora_scale(ALPHA, ANCHOR, scaling, ANCHOR), row)
            for scaling in ("anchored", "lora")
        )
        assert mine == papers
