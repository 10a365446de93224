"""Each two values of two options meet, in few cases, and no combination is lost to `make soak`."""

from __future__ import annotations

from itertools import combinations, product
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairs import covering, pairs


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5))
def test_all_pairs_meet_in_no_more_cases_than_there_are(counts: list[int]) -> None:
    found = covering(counts)
    for (i, m), (j, n) in combinations(enumerate(counts), 2):
        assert {(case[i], case[j]) for case in found} == set(product(range(m), range(n)))
    assert len(set(found)) == len(found) <= prod(counts)


def test_they_are_few() -> None:
    assert len(covering([3, 2, 2, 2, 2])) <= 8
    assert len(covering([2, 2, 2, 2])) <= 6


def test_the_others_are_long_ones_and_all_have_names() -> None:
    mark = pairs(first=[1, 2], second={"none": None, "some": 3}, third="ab").mark
    names, cases = mark.args
    assert names == ["first", "second", "third"]
    assert len(cases) == 8
    assert {case.id for case in cases} >= {"1-none-a", "2-some-b"}
    short = [case for case in cases if pytest.mark.soak not in case.marks]
    assert cases[0] in short
    assert len(short) == len(covering([2, 2, 2])) == 4
