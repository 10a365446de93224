"""Gram matrices in float64, and the singular triplets that come through them."""

from __future__ import annotations

import math

import pytest
import torch

from flexlora.lowrank.gram import LEAST_RATIO, DenseGram, FactoredGram, gram
from matrices import EPS, in_factors, with_values
from reference import assert_close, descending, gaussian


@pytest.mark.parametrize(
    ("m", "r"), [(1, 1), (7, 3), (3, 7), (5000, 5), (2048, 2), (300, 259), (0, 4), (4, 0)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gram_matrix_is_the_float64_product(m: int, r: int, dtype: torch.dtype) -> None:
    tall = gaussian(m, r, seed=1).to(dtype)
    before = tall.clone()
    got = gram(tall)
    assert got.dtype == torch.float64
    assert_close(got, tall.double().T @ tall.double(), 1e-14)
    assert torch.equal(got, got.T)  # Built so: no kernel promises it of a product.
    assert torch.equal(tall, before)


def test_it_reads_a_transpose_as_it_stands() -> None:
    wide = gaussian(5, 3000, seed=1)
    assert_close(gram(wide.T), wide.double() @ wide.double().T, 1e-14)


def test_squares_of_large_and_small_float32_stay_in_range() -> None:
    assert gram(torch.tensor([[1e30], [1e30]])).item() == pytest.approx(2e60, rel=1e-6)
    assert gram(torch.tensor([[1e-30], [1e-30]])).item() == pytest.approx(2e-60, rel=1e-6)


def triplets_are_right(route: FactoredGram | DenseGram, wanted: torch.Tensor, rank: int) -> None:
    values = torch.linalg.svdvals(wanted)
    assert route.finite
    assert route.shape == tuple(wanted.shape)
    assert descending(route.values)
    assert float(route.values.min()) >= 0.0
    assert_close(route.values[:rank], values[:rank], 1e-6)
    u, vh = route.sides(rank)
    assert_close(u.double().T @ u.double(), torch.eye(rank), 1e-5)
    assert_close(vh.double() @ vh.double().T, torch.eye(rank), 1e-5)
    # Neighbours may trade places: what must agree is what the triplets make together.
    rest = (wanted - (u.double() * route.values[:rank]) @ vh.double()).norm()
    assert float(rest) <= float(values[rank:].norm()) * (1.0 + 1e-6) + 8 * EPS * float(values[0])


@pytest.mark.parametrize(("m", "n", "width"), [(40, 50, 12), (50, 40, 12), (2100, 30, 20)])
@pytest.mark.parametrize("scale", [1.0, 1e15, 1e-15])
def test_factors_of_any_scale(m: int, n: int, width: int, scale: float) -> None:
    """Columns scaled one way and rows the other, so that only the products are alike."""
    uneven = torch.tensor([1.0, scale, 1.0 / scale])[torch.arange(width) % 3]
    left = gaussian(m, width, seed=1) * uneven
    right = gaussian(width, n, seed=2) / uneven[:, None]
    route = FactoredGram(left, right)
    wanted = left.double() @ right.double()
    triplets_are_right(route, wanted, width)
    lengths = left.double().norm(dim=0) * right.double().norm(dim=1)
    assert route.magnitude == pytest.approx(float(lengths.norm()), rel=1e-9)


@pytest.mark.parametrize(("m", "n"), [(30, 50), (50, 30), (30, 30), (3000, 20), (1, 9)])
def test_a_dense_matrix_from_its_shorter_side(m: int, n: int) -> None:
    matrix = gaussian(m, n, seed=1)
    triplets_are_right(DenseGram(matrix), matrix.double(), min(m, n))


def test_the_smallest_direction_that_is_left_to_it_is_held() -> None:
    wanted, _ = with_values(60, 50, torch.tensor([1.0, 0.1, 1e-2, 1e-3, LEAST_RATIO]))
    u, s, vh = torch.linalg.svd(wanted, full_matrices=False)
    factored = FactoredGram((u[:, :5] * s[:5]).float(), vh[:5].float())
    for route in (DenseGram(wanted.float()), factored):
        assert float(route.values[4]) == pytest.approx(LEAST_RATIO, rel=1e-3)
        u, vh = route.sides(5)
        assert_close(u.double().T @ u.double(), torch.eye(5), 1e-5)
        assert_close(vh.double() @ vh.double().T, torch.eye(5), 1e-5)


def test_pairs_that_repeat_each_other_do_not_break_the_root() -> None:
    once = in_factors(with_values(40, 3, torch.tensor([3.0, 2.0, 1.0]))[0], 3)
    left, right = once.left.repeat(1, 5), once.right.repeat(5, 1)
    route = FactoredGram(left, right)
    assert route.finite
    assert_close(route.values[:3], torch.tensor([15.0, 10.0, 5.0]), 1e-6)
    # The rest is rounding of squares: √eps of float64 beside the largest.
    assert float(route.values[3:].max()) <= 1e-6 * 15.0


def test_zeros_have_no_values_and_what_is_not_finite_is_said_so() -> None:
    zero = FactoredGram(torch.zeros(5, 2), torch.ones(2, 6))
    assert (zero.finite, zero.magnitude, len(zero.values)) == (True, 0.0, 0)
    assert float(DenseGram(torch.zeros(5, 6)).values.max()) == 0.0
    for bad in (math.nan, math.inf, -math.inf):
        left = torch.ones(5, 2)
        left[2, 1] = bad
        assert not FactoredGram(left, torch.ones(2, 6)).finite
        assert not FactoredGram(torch.ones(6, 2), left.T).finite
        assert not FactoredGram(left, torch.zeros(2, 6)).finite
        assert not DenseGram(left).finite
        assert not DenseGram(left.T).finite
