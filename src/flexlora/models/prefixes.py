"""Rows that begin alike, cut into segments of which none is computed twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby

Row = Sequence[int]
LEAST = 16  # Tokens saved, from which a segment of its own pays its call of the attention.


@dataclass(frozen=True)
class Segment:
    """Tokens that follow segment `before` (None: that begin a row), from the row's `start` on."""

    tokens: tuple[int, ...]
    start: int
    before: int | None


@dataclass(frozen=True)
class Branches:
    """segments: each after the one that it follows. last[i]: the segment in which row i ends."""

    segments: list[Segment] = field(default_factory=list)
    last: list[int] = field(default_factory=list)

    def path(self, segment: int | None) -> list[int]:
        """The segments that begin the row, down to this one and with it."""
        found: list[int] = []
        while segment is not None:
            found.append(segment)
            segment = self.segments[segment].before
        return found[::-1]

    @property
    def lengths(self) -> list[int]:
        return [len(x.tokens) for x in self.segments]

    @property
    def begins(self) -> list[int]:
        """Where each segment begins when all stand one after another."""
        return list(accumulate(self.lengths, initial=0))[:-1]


def branches(
    rows: Sequence[Row],
    shared: Sequence[int],
    places: Sequence[int] | None = None,
    *,
    least: int = LEAST,
) -> Branches:
    """Every row as a path of segments, of which the last is its own and never empty.

    shared[i]: tokens of row i, fewer than it has, that others may have part in. places: whose each
    row is; only rows of one place have parts in common, and their segments come place by place. A
    segment is made for several rows where that saves at least `least` tokens.
    """
    grown = _Grown(rows, shared, least)
    whose = [0] * len(rows) if places is None else places
    order = sorted(range(len(rows)), key=lambda i: (whose[i], tuple(rows[i])))
    for _, group in groupby(order, lambda i: whose[i]):
        grown.add(list(group), 0, None)
    return Branches(grown.segments, grown.last)


class _Grown:
    def __init__(self, rows: Sequence[Row], shared: Sequence[int], least: int) -> None:
        self.rows, self.shared, self.least = rows, shared, least
        self.segments: list[Segment] = []
        self.last = [0] * len(rows)

    def add(self, group: Sequence[int], start: int, before: int | None) -> None:
        """Rows in order of their tokens, whose first `start` are in segment `before` and above."""
        first = self.rows[group[0]]
        # In that order, what the first and the last have in common they all have.
        alike = _common(first, self.rows[group[-1]])
        until = min(alike, *(self.shared[i] for i in group))
        if len(group) > 1 and (len(group) - 1) * (until - start) >= self.least:
            before = self._put(Segment(tuple(first[start:until]), start, before))
            start = until
        for end, same in groupby(group, lambda i: tuple(self.rows[i][alike : alike + 1])):
            members = list(same)
            if end and len(members) > 1:
                self.add(members, start, before)
                continue
            for i in members:
                self.last[i] = self._put(Segment(tuple(self.rows[i][start:]), start, before))

    def _put(self, segment: Segment) -> int:
        self.segments.append(segment)
        return len(self.segments) - 1


def _common(one: Row, other: Row) -> int:
    """How many tokens both begin with."""
    return next(
        (k for k, (x, y) in enumerate(zip(one, other, strict=False)) if x != y),
        min(len(one), len(other)),
    )
