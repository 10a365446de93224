"""The weights that a geometric median gives, against the definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexlora.screens import Products
from flexlora.screens.geometric_median import GeometricMedian
from screens.rounds import crowd, round_at


def median_of(products: Products, points: torch.Tensor, iterations: int = 1000) -> torch.Tensor:
    """The point that the screen's verdicts make of the mean."""
    found = GeometricMedian(iterations=iterations).verdicts(products)
    weights = torch.tensor(
        [products.weights[c] * (found[c].weight if c in found else 1.0) for c in products.clients],
        dtype=torch.float64,
    )
    return (weights / weights.sum()) @ points


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), clients=st.integers(3, 12))
def test_no_step_away_from_it_lessens_the_sum_of_distances(seed: int, clients: int) -> None:
    points = crowd(clients, seed=seed).float().double()
    shares = torch.rand(clients, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    shares = shares / shares.sum()
    found = median_of(round_at(points, shares.tolist()), points)

    def total(at: torch.Tensor) -> float:
        return float(shares @ (points - at).norm(dim=1))

    draw = torch.Generator().manual_seed(seed + 1)
    for _ in range(20):
        step = torch.randn(points.shape[1], generator=draw, dtype=torch.float64)
        assert total(found) <= total(found + 0.02 * step / step.norm()) + 1e-6


def test_however_long_a_lie_is_it_moves_the_median_no_further() -> None:
    points = crowd(10, seed=2)
    honest = median_of(round_at(points[2:]), points[2:])
    moved = []
    for length in (10.0, 1e3, 1e5):
        lied = points.clone()
        lied[:2, 1] = length
        moved.append(float((median_of(round_at(lied), lied.float().double()) - honest).norm()))
    assert moved[2] == pytest.approx(moved[0], rel=0.2)
    assert moved[2] < 0.3  # No farther than an honest client is from the middle.


def test_half_of_the_changes_at_one_point_have_it() -> None:
    points = torch.zeros(5, 3, dtype=torch.float64)
    points[3:] = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    assert float(median_of(round_at(points), points).norm()) < 1e-3


def test_equal_changes_keep_their_weights() -> None:
    assert GeometricMedian().verdicts(round_at(torch.ones(4, 3, dtype=torch.float64))) == {}


def test_nobody_is_left_out() -> None:
    lied = crowd(6, seed=5)
    lied[0] *= 1e6
    found = GeometricMedian().verdicts(round_at(lied))
    assert 0.0 < found["00"].weight < 1e-3
