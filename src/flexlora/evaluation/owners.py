"""Whose row each is, where a model carries the adapters of many clients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flexlora.models.carried import Carried


@dataclass(frozen=True, eq=False)
class Owners:
    """places[i]: the client of row i, by its place in `carried`."""

    carried: Carried
    places: Sequence[int]

    def of(self, rows: Iterable[int]) -> Owners:
        """The owners of these rows alone, in this order."""
        return Owners(self.carried, [self.places[row] for row in rows])

    def share(self, rows: Iterable[int]) -> None:
        """The next forward pass computes these rows, which come client by client."""
        self.carried.share(self.counts((row, 1) for row in rows))

    def counts(self, rows: Iterable[tuple[int, int]]) -> tuple[int, ...]:
        """Of (row, tokens): how many tokens each client has."""
        counts = [0] * len(self.carried.trainables)
        for row, tokens in rows:
            counts[self.places[row]] += tokens
        return tuple(counts)
