"""LowRank and its SVD against dense float64, over awkward shapes, widths, scales and dtypes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexlora.lowrank import LowRank, Spectrum, accumulation_dtype, svd
from matrices import EPS, NOISE, Case, cases, dense_sum, part
from reference import (
    as_in_production,
    assert_close,
    dense,
    descending,
    gaussian,
    magnitude,
    tail_norm,
)

every_kind = settings(max_examples=150)


@every_kind
@given(cases())
def test_a_weighted_sum_is_the_dense_one(case: Case) -> None:
    total = case.total()
    assert total.shape == (case.m, case.n)
    assert total.width == sum(case.widths)
    assert total.left.dtype == total.right.dtype == torch.float32
    assert float((dense(total) - dense_sum(case)).norm()) <= 4 * EPS * magnitude(total)


@every_kind
@given(cases())
def test_norm_scale_sum_and_difference(case: Case) -> None:
    first = case.total()
    second = part(case.kind, case.m, case.n, 3, case.seed + 77)
    assert abs(first.norm() - float(dense(first).norm())) <= 1e-7 * magnitude(first)
    limit = 4 * EPS * (magnitude(first) + magnitude(second))
    assert float((dense(first - second) - (dense(first) - dense(second))).norm()) <= limit
    assert float((dense(first + second) - (dense(first) + dense(second))).norm()) <= limit
    assert float((dense(first.scaled(-0.3)) + 0.3 * dense(first)).norm()) <= limit


@every_kind
@given(cases())
@example(Case(1, 7, (5, 5), (1.0, 1.0), "plain", 0))
@example(Case(6, 5, (3, 3), (1.0, -1.0), "ties", 0))
@example(Case(4, 9, (0,), (1.0,), "plain", 0))
def test_the_svd_is_exact_and_orthonormal(case: Case) -> None:
    total = case.total()
    spectrum = svd(total)
    k = spectrum.rank
    assert k <= min(case.m, case.n, total.width)
    assert spectrum.shape == (case.m, case.n)
    assert descending(spectrum.s)
    assert bool((spectrum.s >= 0).all())
    assert_close(spectrum.u.double().T @ spectrum.u.double(), torch.eye(k), NOISE)
    assert_close(spectrum.vh.double() @ spectrum.vh.double().T, torch.eye(k), NOISE)
    limit = NOISE * magnitude(total)
    rebuilt = (spectrum.u.double() * spectrum.s.double()) @ spectrum.vh.double()
    assert float((rebuilt - dense(total)).norm()) <= limit
    assert float((dense(spectrum.low_rank()) - dense(total)).norm()) <= limit
    wanted = torch.linalg.svdvals(dense(total))
    assert float((spectrum.s.double() - wanted[:k]).abs().sum()) <= limit


@every_kind
@given(cases(), st.integers(0, 10))
def test_a_truncation_is_as_good_as_the_dense_one(case: Case, rank: int) -> None:
    total = case.total()
    truncation = svd(total).truncate(rank)
    limit = NOISE * magnitude(total)
    optimum = tail_norm(dense(total), rank)
    distance = float((dense(total) - dense(truncation.kept.low_rank())).norm())
    assert truncation.kept.rank <= rank
    assert abs(distance - optimum) <= limit
    assert abs(truncation.error - optimum) <= limit
    assert truncation.certificate.kind == "exact"
    assert 0.0 <= truncation.share <= 1.0
    whole = float(dense(total).square().sum())
    assert abs(truncation.share * whole - optimum**2) <= limit * (magnitude(total) + limit)


@every_kind
@given(cases(), st.sampled_from([1e-6, 0.3, 0.5, 0.9, 0.999, 1.0]))
def test_rank_for_is_the_smallest_that_keeps_the_energy(case: Case, energy: float) -> None:
    spectrum = svd(case.total())
    rank = spectrum.rank_for(energy)
    squares = [float(s) ** 2 for s in spectrum.s]
    whole = math.fsum(squares)
    if whole == 0.0:
        assert rank == 0
        return
    assert math.fsum(squares[:rank]) >= energy * whole * (1 - 1e-12)
    assert math.fsum(squares[: rank - 1]) < energy * whole * (1 + 1e-12)


@pytest.mark.parametrize(("energy", "rank"), [(0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_rank_for_counts_a_share_that_is_met_exactly(energy: float, rank: int) -> None:
    assert Spectrum(torch.eye(4), torch.ones(4), torch.eye(4)).rank_for(energy) == rank


@settings(max_examples=60)
@given(cases())
def test_nothing_is_changed_in_place(case: Case) -> None:
    total = case.total()
    left, right = total.left.clone(), total.right.clone()
    svd(total).truncate(1)
    total.scaled(3.0)
    (total - total).norm()
    assert torch.equal(total.left, left)
    assert torch.equal(total.right, right)


@pytest.mark.parametrize("copies", [2, 5, 30])
@pytest.mark.parametrize(("m", "n"), [(8, 9), (60, 70), (300, 40)])
def test_duplicated_parts_come_back_at_their_true_rank(m: int, n: int, copies: int) -> None:
    base = LowRank(gaussian(m, 3, seed=1), gaussian(3, n, seed=2))
    weights = [0.1 + 0.7 * i for i in range(copies)]
    spectrum = svd(LowRank.weighted_sum([base] * copies, weights))
    assert spectrum.rank == 3
    assert_close(dense(spectrum.low_rank()), sum(weights) * dense(base))


@pytest.mark.parametrize("width", [2, 40])
def test_parts_that_cancel_leave_nothing_rather_than_noise(width: int) -> None:
    base = LowRank(gaussian(50, width, seed=1), gaussian(width, 60, seed=2))
    assert svd(base - base).rank == 0
    assert svd(LowRank.weighted_sum([base, base, base], [0.3, 0.45, -0.75])).rank == 0


@pytest.mark.parametrize("size", [64, 1024, 4096])
def test_a_small_direction_of_a_large_layer_is_kept(size: int) -> None:
    """Rounding does not grow with the layer, so neither may the cut: 1e-5 of s₀ is information."""
    left = torch.linalg.qr(gaussian(size, 2, seed=1)).Q
    right = torch.linalg.qr(gaussian(size, 2, seed=2)).Q.T
    spectrum = svd(LowRank(left * torch.tensor([1.0, 1e-5]), right))
    assert spectrum.s.tolist() == pytest.approx([1.0, 1e-5], rel=1e-2)


def test_a_directions_scale_is_its_product_not_its_factors() -> None:
    even = LowRank(gaussian(12, 4, seed=1), gaussian(4, 11, seed=2))
    scales = torch.tensor([1e15, 1e-15, 1e10, 1.0])
    uneven = LowRank(even.left * scales, even.right / scales[:, None])
    assert svd(uneven).s.tolist() == pytest.approx(svd(even).s.tolist(), rel=1e-5)


def test_float64_factors_stay_float64_to_their_own_precision() -> None:
    matrix = LowRank(gaussian(7, 5, seed=1).double(), gaussian(5, 6, seed=2))
    assert matrix.right.dtype == torch.float64
    spectrum = svd(matrix)
    assert spectrum.s.dtype == torch.float64
    assert_close(spectrum.low_rank().dense(), dense(matrix), 1e-14)
    tiny = svd(LowRank(matrix.left * 1e-150, matrix.right * 1e150))
    assert tiny.s.tolist() == pytest.approx(spectrum.s.tolist(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_accumulated_in_float32(dtype: torch.dtype) -> None:
    """A thousand times 0.001 next to 1: a half-precision sum would lose them, 0.01 or more of it.

    In any order a float32 sum rounds each term once for each term, and its weight once: half an
    eps of the sum of sizes each (Higham, Accuracy and Stability, 2002, §4.2). All are of one sign.
    """
    one = LowRank(torch.ones(2, 1, dtype=dtype), torch.ones(1, 3, dtype=dtype))
    total = LowRank.weighted_sum([one] * 1001, [1.0] + [1e-3] * 1000)
    limit = (total.width + 1) * EPS / 2
    assert accumulation_dtype(dtype) == torch.float32
    assert_close(total.dense(), torch.full((2, 3), 2.0), limit)
    assert svd(total).s.tolist() == pytest.approx([2.0 * math.sqrt(6.0)], rel=limit)


def test_dense_multiplies_out() -> None:
    matrix = LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0, 5.0]]))
    assert matrix.dense().tolist() == [[3.0, 4.0, 5.0], [6.0, 8.0, 10.0]]
    assert matrix.nbytes == 4 * (2 + 3)


def test_the_zero_matrix() -> None:
    zero = LowRank.zero(3, 4)
    assert (zero.shape, zero.width, zero.norm()) == ((3, 4), 0, 0.0)
    assert torch.equal(zero.dense(), torch.zeros(3, 4))
    for spectrum in (
        svd(zero),
        Spectrum.zero(3, 4),
        svd(LowRank(torch.zeros(3, 2), zero.right.new_zeros(2, 4))),
    ):
        assert spectrum.rank == 0
        assert spectrum.shape == (3, 4)
        assert spectrum.rank_for(0.9) == 0
        assert (spectrum.truncate(2).error, spectrum.truncate(2).share) == (0.0, 0.0)


def test_refusals() -> None:
    good = LowRank.zero(3, 4)
    message = r"left \(m, r\) and right \(r, n\); got \(3, 2\)"
    with as_in_production(), pytest.raises(ValueError, match=message):
        LowRank(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="got 0 parts and 0 weights"):
        LowRank.weighted_sum([], [])
    with pytest.raises(ValueError, match="got 1 parts and 2 weights"):
        LowRank.weighted_sum([good], [1.0, 2.0])
    with pytest.raises(ValueError, match="different shapes"):
        LowRank.weighted_sum([good, LowRank.zero(4, 3)], [1.0, 1.0])
    with pytest.raises(ValueError, match="rank is -1"):
        svd(good).truncate(-1)
    for energy in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="give a share above 0"):
            svd(good).rank_for(energy)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_svd_refuses_what_is_not_finite(bad: float) -> None:
    left = torch.ones(3, 2)
    left[1, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        svd(LowRank(left, torch.ones(2, 4)))
    with pytest.raises(ValueError, match="NaN or infinity"):
        svd(LowRank(torch.ones(4, 2), left.T))
