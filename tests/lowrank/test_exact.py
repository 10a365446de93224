"""The exact decompositions: every route against dense float64, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from flexlora.lowrank import Dense, LowRank, Matrix, best, singular_values, svd
from flexlora.lowrank.exact import NOISE_IN_EPS, count_above_rounding, tamed
from matrices import NOISE, distance, exactly, in_factors, noise, skew, with_values
from reference import assert_close, descending, gaussian, tail_norm

RANK = 6
# With values below 1e-4 of the largest a route through a Gram matrix must step aside.
LARGE = torch.tensor([10.0 ** (-0.3 * i) for i in range(12)]).double()
SMALL = torch.tensor([10.0 ** (-1.0 * i) for i in range(6)] + [3e-6] * 6).double()


def narrow(values: torch.Tensor, dtype: torch.dtype = torch.float32) -> LowRank:
    u, s, vh = torch.linalg.svd(with_values(40, 50, values)[0], full_matrices=False)
    return LowRank((u[:, :12] * s[:12]).to(dtype), vh[:12].to(dtype))


def wide(values: torch.Tensor, dtype: torch.dtype = torch.float32) -> LowRank:
    return in_factors(with_values(40, 50, values)[0], 70, dtype)


ROUTES: dict[str, Callable[[], Matrix]] = {
    "factored Gram": lambda: narrow(LARGE),
    "factored QR": lambda: narrow(SMALL),
    "factored QR in float64": lambda: narrow(SMALL, torch.float64),
    "product, Gram": lambda: wide(LARGE),
    "product, SVD": lambda: wide(SMALL),
    "product, SVD in float64": lambda: wide(SMALL, torch.float64),
    "dense Gram": lambda: Dense(wide(LARGE).dense()),
    "dense SVD": lambda: Dense(wide(SMALL).dense()),
    "dense SVD in float64": lambda: Dense(wide(SMALL, torch.float64).dense()),
}
routes = pytest.mark.parametrize("route", ROUTES)


@routes
@pytest.mark.parametrize("rank", [0, 1, RANK, 12, 40, 1000])
def test_the_best_of_a_rank_and_its_exact_distance(route: str, rank: int) -> None:
    matrix = ROUTES[route]()
    wanted, limit = exactly(matrix), noise(matrix)
    got = best(matrix, rank)
    optimum = tail_norm(wanted, rank)
    known = got.certificate
    spectral = float(torch.linalg.svdvals(wanted)[rank]) if rank < 40 else 0.0
    assert got.kept.rank <= rank
    assert distance(wanted, got) <= optimum + limit
    assert (known.kind, known.failure) == ("exact", 0.0)
    assert abs(known.error - optimum) <= limit
    assert abs(known.spectral - spectral) <= limit
    assert descending(got.kept.s)
    assert bool((got.kept.s > 0.0).all())
    assert skew(got.kept) <= NOISE


@routes
def test_small_directions_are_as_exact_as_large_ones_allow(route: str) -> None:
    """8 eps of the largest is the noise; the sixth value is at least forty times that."""
    matrix = ROUTES[route]()
    wanted = torch.linalg.svdvals(exactly(matrix))[:RANK]
    got = best(matrix, RANK).kept.s.double()
    assert float(((got - wanted) / wanted).abs().max()) <= 0.02
    if "float64" in route:
        assert got.tolist() == pytest.approx(wanted.tolist(), rel=1e-9)


@routes
def test_the_singular_values_alone(route: str) -> None:
    matrix = ROUTES[route]()
    got = singular_values(matrix)
    wanted = torch.linalg.svdvals(exactly(matrix))
    assert descending(got)
    assert len(got) >= RANK
    assert float((got.double() - wanted[: len(got)]).norm()) <= noise(matrix)
    assert float(wanted[len(got) :].norm()) <= noise(matrix)


@routes
def test_the_same_input_gives_the_same_bits_and_is_left_alone(route: str) -> None:
    matrix, again = ROUTES[route](), ROUTES[route]()
    first, second = best(matrix, RANK).kept, best(matrix, RANK).kept
    for a, b in ((first.u, second.u), (first.s, second.s), (first.vh, second.vh)):
        assert torch.equal(a, b)
    assert torch.equal(exactly(matrix), exactly(again))


@pytest.mark.parametrize("part", [1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("width", [3, 20])
def test_the_sides_stay_orthonormal_where_nearly_all_cancels(part: float, width: int) -> None:
    """What is left is far above the rounding of the parts, but small beside their squares."""
    left, right = gaussian(80, width, seed=1), gaussian(width, 90, seed=2)
    moved = left + part * gaussian(80, width, seed=3)
    matrix = LowRank(torch.cat([moved, left], dim=1), torch.cat([right, -right]))
    for kept in (svd(matrix), best(matrix, 2).kept):
        assert kept.rank > 0
        assert skew(kept) <= 1e-5
    got = best(matrix, 2)
    assert distance(exactly(matrix), got) <= tail_norm(exactly(matrix), 2) + noise(matrix)


def test_rounding_that_a_product_carries_is_not_taken_for_directions() -> None:
    """A Dense that is the sum of large parts knows how large they were."""
    rest = 1e-6 * gaussian(20, 30, seed=1)
    assert best(Dense(rest, magnitude=1e6), 5).kept.rank == 0
    assert best(Dense(rest, magnitude=0.0), 5).kept.rank == 5
    assert best(LowRank(gaussian(20, 40, seed=1), torch.zeros(40, 30)), 5).kept.rank == 0


@pytest.mark.parametrize(("m", "n"), [(0, 4), (4, 0), (0, 0)])
def test_a_side_without_length(m: int, n: int) -> None:
    for matrix in (Dense(torch.zeros(m, n)), LowRank(torch.zeros(m, 3), torch.zeros(3, n))):
        got = best(matrix, 2)
        assert (got.kept.rank, got.kept.shape, got.error) == (0, (m, n), 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("width", [2, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_finite_is_refused_even_behind_a_zero(
    bad: float, width: int, dtype: torch.dtype
) -> None:
    left = torch.ones(5, width, dtype=dtype)
    left[1, 1] = bad
    blind = torch.zeros(width, 6, dtype=dtype)
    for matrix in (
        LowRank(left, blind),
        LowRank(blind.T, left.T),
        LowRank(left, blind + 1.0),
        Dense(left),
    ):
        for decompose in (lambda x: best(x, 0), lambda x: best(x, 3), singular_values, tamed):
            with pytest.raises(ValueError, match="NaN or infinity"):
                decompose(matrix)
    with pytest.raises(ValueError, match="NaN or infinity"):
        svd(LowRank(left, blind))


def test_a_negative_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="rank is -1"):
        best(LowRank.zero(3, 4), -1)


@pytest.mark.parametrize("left", [1e-40, 1e-15, 1.0, 1e15, 1e30])
@pytest.mark.parametrize("right", [1e-20, 1.0, 1e20])
def test_what_is_tamed_is_the_same_matrix_near_one(left: float, right: float) -> None:
    matrix = LowRank(left * gaussian(4, 3, seed=1), right * gaussian(3, 5, seed=2))
    sized, exponent = tamed(matrix)
    assert isinstance(sized, LowRank)
    for factor in (sized.left, sized.right):
        assert 0.5 <= float(factor.abs().max()) < 1.0
    assert_close(exactly(sized) * 2.0**exponent, exactly(matrix), 1e-15)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_dense_matrix_is_tamed_with_its_magnitude(scale: float) -> None:
    matrix = Dense(scale * gaussian(4, 5, seed=1), magnitude=scale * 7.0)
    sized, exponent = tamed(matrix)
    assert isinstance(sized, Dense)
    assert 0.5 <= float(sized.matrix.abs().max()) < 1.0
    assert torch.equal(exactly(sized) * 2.0**exponent, exactly(matrix))
    assert sized.magnitude * 2.0**exponent == matrix.magnitude


def test_zeros_are_tamed_as_they_are() -> None:
    assert tamed(Dense(torch.zeros(3, 4)))[1] == 0
    assert tamed(LowRank(torch.zeros(3, 2), torch.zeros(2, 4)))[1] == 0


def test_how_many_values_are_more_than_rounding() -> None:
    eps = torch.finfo(torch.float32).eps
    values = torch.tensor([1.0, 1.1 * NOISE_IN_EPS * eps, 0.9 * NOISE_IN_EPS * eps])
    assert count_above_rounding(values, 0.0) == 2
    assert count_above_rounding(values, 2.0) == 1
    assert count_above_rounding(values.double(), 0.0, torch.float32) == 2
    assert count_above_rounding(values.double(), 0.0) == 3
    assert count_above_rounding(torch.zeros(3), 0.0) == 0
    assert count_above_rounding(torch.zeros(0), 1.0) == 0
