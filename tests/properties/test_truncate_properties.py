"""Every path of truncation, and the streamed sum, against dense float64 over awkward sums."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexlora.lowrank import TOLERANCE, Dense, Matrix, Truncation, best, total, truncate
from flexlora.lowrank.truncate import Path
from matrices import (
    NOISE,
    Case,
    cases,
    dense_sum,
    distance,
    exactly,
    noise,
    skew,
    wide_cases,
    with_values,
)
from reference import descending, generator, magnitude, tail_norm

small = settings(max_examples=100)
wide = settings(max_examples=40)
iterated = pytest.mark.parametrize("path", ["formed", "implicit"])


def check(got: Truncation, wanted: torch.Tensor, rank: int, limit: float) -> None:
    optimum, away = tail_norm(wanted, rank), distance(wanted, got)
    known = got.certificate
    assert got.kept.rank <= min(rank, *wanted.shape)
    assert got.kept.shape == tuple(wanted.shape)
    assert away <= (1.0 + TOLERANCE) * optimum + limit
    assert descending(got.kept.s)
    assert bool((got.kept.s >= 0.0).all())
    assert skew(got.kept) <= 1e-5
    if known.kind == "probabilistic":
        # χ² of ten: below and above these it is once in 100,000 times, even for one direction.
        assert 0.2 * away - limit <= known.error <= 2.1 * away + limit
    else:
        assert abs(known.error - away) <= limit


def gathered(case: Case, rank: int | None) -> Matrix:
    parts = zip(case.weights, case.parts(), strict=True)
    return total(parts, (case.m, case.n), sum(case.widths), rank)


@small
@given(cases(), st.one_of(st.none(), st.integers(0, 10)))
@example(Case(2, 3, (600, 600, 600), (1.0, -0.5, 0.25), "plain", 0), None)
@example(Case(2, 3, (600, 600, 600), (1.0, -0.5, 0.25), "opposed", 0), None)
@example(Case(2, 3, (600, 600, 600), (1.0, -0.5, 0.25), "grown", 0), 1)
def test_a_sum_that_is_streamed_is_the_float64_one(case: Case, rank: int | None) -> None:
    got = gathered(case, rank)
    limit = NOISE * magnitude(case.total())
    assert got.shape == (case.m, case.n)
    assert float((exactly(got) - dense_sum(case)).norm()) <= limit


@small
@given(cases(), st.integers(0, 10))
@example(Case(5, 4, (9, 9), (1.0, 1.0), "opposed", 0), 2)
@example(Case(6, 5, (3, 3), (1.0, -1.0), "ties", 0), 1)
@example(Case(1, 9, (12,), (1.0,), "denormal", 0), 1)
def test_the_best_of_any_form_is_that_of_float64(case: Case, rank: int) -> None:
    """Through the factors and through the product, whichever is smaller."""
    wanted, limit = dense_sum(case), NOISE * magnitude(case.total())
    product = Dense(case.total().dense(), magnitude(case.total()))
    for matrix in (case.total(), product, gathered(case, None)):
        got = best(matrix, rank)
        check(got, wanted, rank, limit)
        assert got.certificate.kind == "exact"
        assert abs(got.error - tail_norm(wanted, rank)) <= limit


@iterated
@small
@given(cases(), st.integers(0, 10))
def test_where_lanczos_has_no_room_it_is_as_good(path: Path, case: Case, rank: int) -> None:
    got = truncate(case.total(), rank, generator(case.seed), path=path)
    check(got, dense_sum(case), rank, NOISE * magnitude(case.total()))


@iterated
@wide
@given(wide_cases(), st.integers(0, 24))
def test_where_lanczos_runs_it_is_as_good(path: Path, case: Case, rank: int) -> None:
    matrix = case.total()
    wanted = exactly(matrix)
    got = truncate(matrix, rank, generator(case.seed), path=path)
    check(got, wanted, rank, noise(matrix))


@settings(max_examples=20)
@given(
    st.sampled_from([12, 16, 17, 24, 40, 60]),
    st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 4e-2]),
    st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.98]),
    st.integers(1, 60),
    st.integers(0, 99),
)
@example(40, 0.0, 0.95, 30, 0)
@example(60, 1e-4, 0.9, 24, 0)
@example(60, 1e-2, 0.9, 24, 0)
def test_many_values_close_together_above_a_dense_tail_are_cut_as_well(
    count: int, spread: float, below: float, rank: int, seed: int
) -> None:
    """By Lanczos or, where it cannot tell, exactly."""
    top = 1.0 + spread * torch.linspace(1.0, -1.0, count)
    values = torch.cat([top, torch.linspace(below, below / 2, 520 - count)])
    matrix = Dense(with_values(600, 520, values, seed=seed)[0].float())
    least = float(values.double()[rank:].norm())
    got = truncate(matrix, rank, generator(seed), path="formed")
    assert distance(exactly(matrix), got) <= (1.0 + TOLERANCE) * least


@wide
@given(wide_cases(), st.integers(0, 24))
def test_a_streamed_sum_is_truncated_as_the_factors_are(case: Case, rank: int) -> None:
    wanted, limit = dense_sum(case), NOISE * magnitude(case.total())
    for known in (None, rank):
        matrix = gathered(case, known)
        check(truncate(matrix, rank, generator(case.seed)), wanted, rank, limit)


@wide
@given(wide_cases(), st.integers(0, 24))
def test_the_same_input_gives_the_same_bits_and_is_left_alone(case: Case, rank: int) -> None:
    matrix = case.total()
    left, right = matrix.left.clone(), matrix.right.clone()
    first, second = (
        truncate(matrix, rank, generator(case.seed), path="implicit") for _ in range(2)
    )
    assert torch.equal(first.kept.u, second.kept.u)
    assert torch.equal(first.kept.s, second.kept.s)
    assert torch.equal(first.kept.vh, second.kept.vh)
    assert first.certificate == second.certificate
    assert torch.equal(matrix.left, left)
    assert torch.equal(matrix.right, right)
