"""What came of a round, as a rule may see it: weighted sums, or every client's part."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from flexlora.adapters import Factors, Sides
from flexlora.errors import RuleError
from flexlora.lowrank import LowRank, Matrix, total


@dataclass(frozen=True, eq=False)
class Contribution:
    """One client's part of one layer: its normalised weight, what it trained, what it was sent.

    `read` fetches what it trained, of this rank, each time anew: whoever combines many holds one
    at a time. `sent` is what the client was sent. `origin` is the same where Δ already holds that
    (else None): its contribution is trained − origin.
    """

    client: str
    weight: float
    rank: int
    read: Callable[[], Factors]
    sent: Factors
    origin: Factors | None = None

    @staticmethod
    def of(
        client: str,
        weight: float,
        trained: Factors,
        origin: Factors | None = None,
        sent: Factors | None = None,
    ) -> Contribution:
        """A contribution that is in memory already; sent: by default its origin, or trained."""
        sent = sent or origin or trained
        return Contribution(client, weight, trained.rank, lambda: trained, sent, origin)

    @property
    def trained(self) -> Factors:
        return self.read()

    @cached_property
    def subtracted(self) -> Factors | None:
        """The origin, where it is anything: B may begin at zero, whose product widens every sum
        that it is taken from, and changes none."""
        return None if self.origin is None or not self.origin.b.any() else self.origin

    @property
    def width(self) -> int:
        """Inner width of `update`."""
        return self.rank + (0 if self.subtracted is None else self.subtracted.rank)

    def update(self) -> LowRank:
        """trained − origin, of inner width at most 2r."""
        product = self.trained.product()
        return product if self.subtracted is None else product - self.subtracted.product()

    def parts(self) -> Iterator[tuple[float, LowRank]]:
        """What weight · update is the sum of: each scale in its weight, the factors as they are."""
        trained = self.trained
        yield self.weight * trained.scale, trained.unscaled()
        if self.subtracted is not None:
            yield -self.weight * self.subtracted.scale, self.subtracted.unscaled()


class Contributions(abc.ABC):
    """One layer's contributions of a round, as a collector tells them; weights sum to 1.

    shape: (m, n) of the layer. width: the inner widths of all updates together.
    """

    shape: tuple[int, int]
    width: int

    @abc.abstractmethod
    def sum(self, rank: int | None = None) -> Matrix:
        """Σ w_k · update_k, in the form from which `truncate` to this rank is cheapest.

        rank: None for the form that is smaller: the sum is kept as it is.
        """

    @abc.abstractmethod
    def mean_factors(self) -> Factors:
        """Σ w_k B_k and Σ w_k A_k in float32: for rules that compare factors, at one rank for all.

        A side that no client returned is absent. Raises RuleError for different ranks, sides or
        scales: factors mean the same only where these are the same.
        """

    @abc.abstractmethod
    def shares(self, rank: int) -> Tensor:
        """(rank,) in float64: the weights of the clients of at least rank 1, 2, …, summed.

        A change that a screen shrinks holds what was sent beside what was trained; its client is
        of no higher rank for it. Ranks and weights are known to whoever adds up: no client's part
        is read for it.
        """

    @abc.abstractmethod
    def each(self) -> Sequence[Contribution]:
        """Every client's part, in order of client; for rules whose traits say needs="each" alone.

        What a client trained is read when it is asked for: go through them once and hold none, and
        memory does not grow with their number.
        """


@final
class Listed(Contributions):
    """Contributions that can be read one by one."""

    def __init__(self, contributions: Sequence[Contribution]) -> None:
        """At least one, all of one layer."""
        assert contributions, "a layer's contributions are those of at least one client"
        self._each = tuple(contributions)
        self.shape = self._each[0].sent.shape
        self.width = sum(c.width for c in self._each)

    def sum(self, rank: int | None = None) -> Matrix:
        if rank is None:
            # The same sum, rounded otherwise than part by part: what is kept whole has these bits.
            whole = ((c.weight, c.update()) for c in self._each)
            return total(whole, self.shape, self.width)
        parts = (part for c in self._each for part in c.parts())
        return total(parts, self.shape, self.width, rank)

    def mean_factors(self) -> Factors:
        (m, n), rank = self.shape, self._each[0].rank
        _require_one("ranks", {c.rank for c in self._each}, "declare mixed_ranks=False")
        b, a = torch.zeros(m, rank), torch.zeros(rank, n)
        sides: set[Sides] = set()
        scales: set[float] = set()
        for c in self._each:
            trained = c.trained
            sides.add(trained.sides)
            scales.add(trained.scale)
            if trained.sides != "a":
                b += c.weight * trained.b.float()
            if trained.sides != "b":
                a += c.weight * trained.a.float()
        _require_one("sides", sides, "return the same of all clients")
        _require_one("scales", scales, "send all clients one scale")
        return Factors(b, a, scales.pop()).only(sides.pop())

    def shares(self, rank: int) -> Tensor:
        return shares_of(((c.weight, min(c.rank, c.sent.rank)) for c in self._each), rank)

    def each(self) -> Sequence[Contribution]:
        return self._each


def shares_of(weighed: Iterable[tuple[float, int]], rank: int) -> Tensor:
    """`Contributions.shares` of these weights and ranks."""
    shares = torch.zeros(rank, dtype=torch.float64)
    for weight, owned in weighed:
        shares[:owned] += weight
    return shares


def _require_one(what: str, found: Set[Any], cure: str) -> None:
    if len(found) > 1:
        listed = ", ".join(map(str, sorted(found)))
        raise RuleError(
            f"the mean of factors was asked for at {what} {listed}; {cure}, or go through each()"
        )


@final
class SumsOf(Contributions):
    """Contributions of which sums alone may be asked: what a rule with needs="sum" is given."""

    def __init__(self, whole: Contributions, rule: str) -> None:
        self._whole = whole
        self._rule = rule
        self.shape = whole.shape
        self.width = whole.width

    def sum(self, rank: int | None = None) -> Matrix:
        return self._whole.sum(rank)

    def mean_factors(self) -> Factors:
        return self._whole.mean_factors()

    def shares(self, rank: int) -> Tensor:
        return self._whole.shares(rank)

    def each(self) -> Sequence[Contribution]:
        raise RuleError(
            f"rule {self._rule} asked for every client's contribution, but its traits say "
            "needs='sum'; declare needs='each'"
        )
