"""Statistics over seeds, worked by hand and against slow twins."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexlora.comparing.statistics import (
    DRAWN,
    EXACT,
    Interval,
    P,
    clustered,
    holm,
    interval,
    paired,
    permutation_test,
    t_quantile,
)

# Student's t: (P(T ≤ t), degrees of freedom) → t, as tables print it.
TABLE = {
    (0.95, 1): 6.313752,
    (0.975, 1): 12.706205,
    (0.975, 2): 4.302653,
    (0.975, 3): 3.182446,
    (0.975, 4): 2.776445,
    (0.995, 5): 4.032143,
    (0.975, 7): 2.364624,
    (0.9, 10): 1.372184,
    (0.975, 19): 2.093024,
    (0.975, 30): 2.042272,
    (0.995, 40): 2.704459,
    (0.975, 120): 1.979930,
}


@pytest.mark.parametrize(("p", "df"), TABLE)
def test_quantiles_are_those_of_the_tables(p: float, df: int) -> None:
    assert t_quantile(p, df) == pytest.approx(TABLE[p, df], abs=6e-7)


@given(st.floats(0.501, 0.9995))
def test_with_one_and_two_degrees_of_freedom_they_have_a_formula(p: float) -> None:
    assert t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-9)
    assert t_quantile(p, 2) == pytest.approx((2 * p - 1) / math.sqrt(2 * p * (1 - p)), rel=1e-9)


def test_an_interval_by_hand() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half == pytest.approx(4.302653 * 1.0 / math.sqrt(3), rel=1e-6)
    assert (found.low, found.high) == pytest.approx((2.0 - 2.484138, 2.0 + 2.484138), abs=1e-6)
    assert interval([5.0, 5.0]) == Interval(5.0, 0.0, 2)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert interval([4.0]) == Interval(4.0, None, 1)
    assert interval([]) is None


def test_pairs_are_of_the_seeds_that_both_have() -> None:
    assert paired({3: 5.0, 1: 2.0, 7: 1.0}, {1: 0.5, 3: 1.0, 8: 9.0}) == [1.5, 4.0]
    assert paired({1: 1.0}, {2: 1.0}) == []


def test_a_clustered_interval_by_hand() -> None:
    """Tasks x, y, z differ by 1, 2, 6 on average over two seeds: mean 3, s = √7."""
    found = clustered(
        [
            {"x": (1 / 3, 0.0), "y": (1 / 3, 2.5), "z": (1 / 3, 8.0)},
            {"x": (1 / 3, 2.0), "y": (1 / 3, 1.5), "z": (1 / 3, 4.0)},
        ]
    )
    assert found is not None
    assert found.n == 3
    assert found.mean == pytest.approx(3.0)
    assert found.half == pytest.approx(4.302653 * math.sqrt(7 / 3), rel=1e-6)
    assert clustered([{"x": (1.0, 2.0)}, {"x": (1.0, 4.0)}]) == Interval(3.0, None, 1)
    assert clustered([]) is None


SEEDS = st.integers(1, 4)
TASKS = st.lists(st.lists(st.floats(-100, 100), min_size=4, max_size=4), min_size=2, max_size=9)


@given(SEEDS, TASKS)
def test_of_equal_tasks_it_is_the_t_interval_of_their_means(
    seeds: int, values: list[list[float]]
) -> None:
    share = 1 / len(values)
    found = clustered(
        [{f"t{k}": (share, of[seed]) for k, of in enumerate(values)} for seed in range(seeds)]
    )
    plain = interval([math.fsum(of[:seeds]) / seeds for of in values])
    assert found is not None
    assert plain is not None
    assert plain.half is not None
    assert found.mean == pytest.approx(plain.mean, abs=1e-9)
    assert found.half == pytest.approx(plain.half, abs=1e-9)


WEIGHED = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(st.integers(1, 9), st.floats(-100, 100)),
    min_size=2,
    max_size=6,
)


@given(st.lists(WEIGHED, min_size=1, max_size=4))
def test_its_mean_is_that_by_seed_and_a_task_said_twice_adds_no_certainty(
    drawn: list[dict[str, tuple[int, float]]],
) -> None:
    totals = [sum(w for w, _ in of.values()) for of in drawn]
    seeds = [
        {task: (w / total, x) for task, (w, x) in of.items()}
        for of, total in zip(drawn, totals, strict=True)
    ]
    found = clustered(seeds)
    by_seed = interval([sum(w * x for w, x in of.values()) for of in seeds])
    assert found is not None
    assert by_seed is not None
    assert found.mean == pytest.approx(by_seed.mean, abs=1e-9)
    again = clustered([*seeds, *seeds])
    assert again is not None
    assert again.mean == pytest.approx(found.mean)
    assert again.half == pytest.approx(found.half)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),  # Only all of one sign are as far from 0.
        ([-1.0, -2.0, -3.0], 2 / 8),
        ([1.0, 1.0, -1.0], 1.0),  # |1|: every choice of signs is at least as far.
        ([1.0, 2.0, -3.0], 1.0),
        ([4.0, 1.0], 2 / 4),
        ([4.0, -1.0], 4 / 4),
        ([1.0] * 6, 2 / 64),
        ([0.1, 0.2, 0.3, -0.3], 12 / 16),  # Ties in decimals: 0.3 is as far as 0.1 + 0.2.
        ([0.5], 1.0),
    ],
)
def test_the_permutation_test_by_hand(differences: list[float], p: float) -> None:
    found = permutation_test(differences)
    assert found == P(p, 2 ** len(differences), True)


def slow(differences: list[float]) -> float:
    """The same from its definition, in whole tenths."""
    tenths = [round(10 * x) for x in differences]
    signs = list(product((1, -1), repeat=len(tenths)))
    sums = [abs(sum(s * x for s, x in zip(of, tenths, strict=True))) for of in signs]
    return sum(x >= abs(sum(tenths)) for x in sums) / len(signs)


DIFFERENCES = st.lists(st.integers(-30, 30).map(lambda x: x / 10), min_size=1, max_size=9)


@given(DIFFERENCES)
def test_the_permutation_test_is_its_definition_in_either_direction(values: list[float]) -> None:
    found = permutation_test(values)
    assert found is not None
    assert found.value == slow(values)
    assert permutation_test([-x for x in values]) == found
    assert permutation_test(values[::-1]) == found
    assert 2 / 2 ** len(values) <= found.value <= 1.0


@given(st.integers(1, 12))
def test_of_identical_arms_p_is_1(seeds: int) -> None:
    found = permutation_test([0.0] * seeds)
    assert found is not None
    assert found.value == 1.0
    assert permutation_test([]) is None


def test_beyond_twenty_seeds_signs_are_drawn_and_it_says_so() -> None:
    """Against the binomial distribution, which is that of ±1; a wrong p is told apart."""
    n = EXACT + 1
    values = [1.0] * 15 + [-1.0] * (n - 15)
    exact = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= 9) / 2**n
    found = permutation_test(values)
    assert found is not None
    assert (found.flips, found.exact) == (DRAWN, False)
    assert abs(found.value - exact) < 5 * math.sqrt(exact * (1 - exact) / DRAWN)
    one_sided = exact / 2
    assert abs(found.value - one_sided) > 20 * math.sqrt(exact / DRAWN)
    assert permutation_test(values) == found
    sure = permutation_test([1.0] * 40)
    assert sure is not None
    assert sure.value == 1 / (DRAWN + 1)  # Never 0: what was observed is one of the flips.


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


PS = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8)


@given(PS)
def test_holm_only_raises_keeps_order_and_does_not_depend_on_it(ps: list[float]) -> None:
    found = holm(ps)
    assert all(p <= corrected <= 1.0 for p, corrected in zip(ps, found, strict=True))
    ranked = sorted(zip(ps, found, strict=True))
    assert [x for _, x in ranked] == sorted(found)
    assert sorted(holm(ps[::-1])) == sorted(found)


@given(PS, st.floats(0.001, 0.5))
def test_holm_rejects_what_its_step_down_rejects(ps: list[float], level: float) -> None:
    left = sorted(ps)
    while left and left[0] * len(left) <= level:
        left.pop(0)
    assert sum(x <= level for x in holm(ps)) == len(ps) - len(left)
