from __future__ import annotations

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from flexlora.models.prefixes import Branches, Segment, branches

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=12)
ROWS = st.lists(
    TOKENS.flatmap(
        lambda row: st.tuples(st.just(row), st.integers(0, len(row) - 1), st.integers(0, 2))
    ),
    max_size=9,
)


def whole(found: Branches, i: int) -> list[int]:
    return [t for s in found.path(found.last[i]) for t in found.segments[s].tokens]


@given(ROWS, st.integers(1, 6))
def test_every_row_is_what_it_shares_and_a_rest(
    drawn: list[tuple[list[int], int, int]], least: int
) -> None:
    rows, shared = [row for row, *_ in drawn], [count for _, count, _ in drawn]
    places = [place for *_, place in drawn]
    found = branches(rows, shared, places, least=least)
    for i, row in enumerate(rows):
        assert whole(found, i) == row
        own = found.segments[found.last[i]]
        assert own.tokens
        assert own.start <= shared[i]
    assert len(set(found.last)) == len(rows)  # Each ends in a segment of its own.
    through: dict[int, list[int]] = {}
    for i, last in enumerate(found.last):
        for k in found.path(last):
            through.setdefault(k, []).append(i)
    assert sorted(through) == list(range(len(found.segments)))
    for s, segment in enumerate(found.segments):
        before = segment.before
        assert before is None or before < s
        assert segment.start == sum(len(found.segments[x].tokens) for x in found.path(before))
        assert len({places[i] for i in through[s]}) == 1
        if s not in found.last:  # It is several rows', and pays.
            assert (len(through[s]) - 1) * len(segment.tokens) >= least
    order = [places[through[s][0]] for s in range(len(found.segments))]
    assert [place for place, _ in groupby(order)] == sorted(set(places))


def test_tasks_prompts_and_choices_each_share_what_they_have() -> None:
    rows = [[1, 1, 1, 2, 2, 2, 7], [1, 1, 1, 2, 2, 2, 8], [1, 1, 1, 3, 3, 9], [4]]
    found = branches(rows, [5, 5, 4, 0], least=2)
    assert found.segments == [
        Segment((1, 1, 1), 0, None),
        Segment((2, 2), 3, 0),
        Segment((2, 7), 5, 1),
        Segment((2, 8), 5, 1),
        Segment((3, 3, 9), 3, 0),
        Segment((4,), 0, None),
    ]
    assert found.last == [2, 3, 4, 5]
    assert found.begins == [0, 3, 5, 7, 9, 12]


def test_what_does_not_pay_is_not_cut() -> None:
    rows = [[1, 2, 3, 4], [1, 2, 3, 5]]
    assert len(branches(rows, [3, 3], least=4).segments) == 2
    assert len(branches(rows, [3, 3], least=3).segments) == 3


def test_equal_rows_end_apart() -> None:
    found = branches([[1, 2, 3]] * 3, [2, 2, 2], least=1)
    assert found.segments == [Segment((1, 2), 0, None), *[Segment((3,), 2, 0)] * 3]
    assert found.last == [1, 2, 3]
