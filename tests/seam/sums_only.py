"""A collector that adds up as replies come and holds none: all that secure sums can give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, final

import torch
from torch import Tensor

from flexlora.adapters import Adapter, Factors
from flexlora.engines.jobs import Failure, Outcome, Reply, Train
from flexlora.federation.admission import Collected, admitted
from flexlora.lowrank import Dense, LowRank, Matrix
from flexlora.rules import Contribution, Contributions, Rule
from flexlora.rules.contributions import shares_of


@final
class Summed(Contributions):
    """One layer, of which the sums are known."""

    def __init__(
        self,
        whole: Dense,
        mean: Factors | None,
        width: int,
        weighed: Sequence[tuple[float, int]],
    ) -> None:
        self._whole, self._mean, self._weighed = whole, mean, weighed
        self.shape, self.width = whole.shape, width

    def sum(self, rank: int | None = None) -> Matrix:
        return self._whole

    def mean_factors(self) -> Factors:
        assert self._mean is not None, "ranks differ"
        return self._mean

    def shares(self, rank: int) -> Tensor:
        return shares_of(self._weighed, rank)

    def each(self) -> Sequence[Contribution]:
        raise AssertionError("there is nothing to go through")


@final
class SumsOnly:
    """Σ examples · update in float64, dense; divided by all examples when a round is over."""

    gives: Literal["sum", "each"] = "sum"

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.clear()

    def clear(self) -> None:
        self._examples = 0
        self._updates: dict[str, Tensor] = {}
        self._sides: dict[str, list[Factors]] = {}
        self._widths: dict[str, int] = {}
        self._magnitudes: dict[str, float] = {}

    def collect(
        self, jobs: Sequence[Train], replies: Iterable[Outcome], sent: Mapping[str, Adapter]
    ) -> Iterator[tuple[Reply | Failure, Collected]]:
        self.clear()

        def keep(_index: int, reply: Reply, adapter: Adapter) -> None:
            self._examples += reply.examples
            for name, f in adapter.items():
                self._add(name, f, sent[reply.client][name], reply.examples)

        yield from admitted(jobs, replies, sent, self.rule, keep)

    def _add(self, name: str, f: Factors, sent: Factors, examples: int) -> None:
        update = LowRank.zero(*f.shape) if f.sides != "both" else f.product()
        if self.rule.traits.origin:
            update = update - sent.product()
        dense = examples * (update.left.double() @ update.right.double())
        self._updates[name] = self._updates.get(name, torch.zeros(())) + dense
        self._widths[name] = self._widths.get(name, 0) + update.width
        squared = (examples * update.magnitude()) ** 2
        self._magnitudes[name] = self._magnitudes.get(name, 0.0) + squared
        new = Factors(examples * f.b.double(), examples * f.a.double(), f.scale)
        before = self._sides.get(name, [])
        if before and before[0].rank == f.rank:
            new = Factors(before[0].b + new.b, before[0].a + new.a, f.scale)
        self._sides[name] = [new]

    def contributions(
        self,
        layer: str,
        weights: Mapping[str, float],
        sent: Mapping[str, Adapter],
        shrinks: Mapping[str, float],
    ) -> Summed:
        assert not shrinks
        count = self._examples
        whole = Dense(
            (self._updates[layer] / count).float(), self._magnitudes[layer] ** 0.5 / count
        )
        sides = self._sides[layer][0]
        mean = Factors((sides.b / count).float(), (sides.a / count).float(), sides.scale)
        mixed = self.rule.traits.mixed_ranks
        weighed = [(weight, sent[client][layer].rank) for client, weight in weights.items()]
        return Summed(whole, None if mixed else mean, self._widths[layer], weighed)
