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
        counts = [0] * len(self.carried.trainables)
        for row in rows:
            counts[self.places[row]] += 1
        self.carried.share(counts)
