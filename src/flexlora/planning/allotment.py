"""Ranks for classes of devices, as much as memory, bytes and a deadline leave to each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, final

from flexlora.adapters import Wire
from flexlora.allocation.devices import Device, DeviceClass
from flexlora.allocation.memory import Memory, Setting
from flexlora.allocation.order import Order
from flexlora.allocation.shape import ModelShape
from flexlora.planning.federation import federated
from flexlora.planning.traffic import ROUNDS, Traffic, traffic
from flexlora.rules import Rule

_PASSES = 20  # At most, over all classes, until ranks and what Δ takes agree;
_CLOSE = 1 / 256  # or until it is known so closely.

Steps = Sequence[tuple[Setting, int]]
"""A client's steps of a round: of one kind, so many."""


class Costed(Protocol):
    """A model whose training has a price."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> ModelShape: ...

    def memory(self, ranks: Mapping[str, int], setting: Setting) -> Memory:
        """At the peak."""
        ...

    def seconds(self, ranks: Mapping[str, int], setting: Setting, device: Device) -> float:
        """Of one step."""
        ...


@dataclass(frozen=True)
class Work:
    """A client's part of a round, as the class it is of is held to it.

    heaviest: its largest batch, which memory has to hold; parts: its steps, each kind of them and
    how many there are, for an epoch's last may be smaller. presence: the share of the time that it
    works on a round.
    """

    kind: DeviceClass
    heaviest: Setting
    parts: Steps
    presence: float = 1.0

    @property
    def steps(self) -> int:
        return sum(count for _, count in self.parts)


@dataclass(frozen=True)
class Cost:
    """What a client takes at some ranks. parameters: numbers that its training ever changes;
    seconds: of a round, links included; compute: of them."""

    ranks: Mapping[str, int]
    parameters: int
    memory: Memory
    seconds: float
    compute: float
    traffic: Traffic


@final
class Allotment:
    """Of each class the longest beginning of the order that it can pay for.

    deadline: seconds; traffic: bytes of a client both ways; None: no limit. clients: of a round;
    wire: of adapters; stay: whether a class that affords no rank takes part at the least.
    """

    def __init__(
        self,
        model: Costed,
        works: Sequence[Work],
        rule: Rule,
        order: Order,
        *,
        deadline: float | None = None,
        traffic: float | None = None,
        clients: int | None = None,
        wire: Wire = "exact",
        stay: bool = False,
    ) -> None:
        self.model, self.works, self.rule, self.order = model, works, rule, order
        self.deadline, self.most_bytes, self.clients = deadline, traffic, clients
        self.wire: Wire = wire
        self.first = order.ranks(1)
        self._stay = stay
        self._delta = 0  # Bytes, as far as it is known by now.

    @property
    def limited(self) -> bool:
        """Whether more than memory decides."""
        return self.deadline is not None or self.most_bytes is not None

    def settled(self) -> dict[str, dict[str, int]]:
        """Class → the ranks that it affords, with what Δ takes of time and bytes; without those
        that afford none.

        Δ depends on who takes part at which ranks, and these on it: the least Δ is looked for that
        the ranks which it leaves do not exceed. Whoever is out at it, though at the least rank
        beside all others there would be room, is let in after all.
        """
        ranks = self._by(0)
        if self.rule.traits.delta == "none" or not self.limited or not ranks:
            return ranks
        high = self._takes(ranks)
        low = self._takes(self._by(high))
        for _ in range(_PASSES):
            if low <= high:
                break
            high, low = low, self._takes(self._by(low))
        for _ in range(_PASSES):
            if high - low <= _CLOSE * high:
                break
            middle = (low + high) // 2
            takes = self._takes(self._by(middle))
            if takes > middle:
                low = middle
            else:
                high, low = middle, max(low, takes)
        ranks = self._by(high)
        for work in self.works:
            if work.kind.name not in ranks:
                more = {**ranks, work.kind.name: self.first}
                self._delta = self._takes(more)
                if self._delta <= high and self._fits(work, self.first):
                    ranks = more
        # Where nobody is in, of all of them at the least: what the closest misses by.
        nobody = {work.kind.name: self.first for work in self.works}
        self._delta = self._takes(ranks or nobody)
        return ranks

    def _by(self, delta: int) -> dict[str, dict[str, int]]:
        """The ranks that this Δ leaves, a class's own; without those that it leaves none."""
        self._delta, found = delta, {}
        for work in self.works:
            most = self.order.largest(partial(self._fits, work))
            if most is not None:
                found[work.kind.name] = most
        return found

    def _takes(self, ranks: Mapping[str, Mapping[str, int]]) -> int:
        """Bytes of Δ where these classes train at these ranks."""
        names = [work.kind.name for work in self.works]
        there = {name: ranks.get(name, self.first) for name in names if self._stay or name in ranks}
        return max(sent.delta for sent in self.traffic(there).values()) if there else 0

    def holds(self, setting: Setting, kind: DeviceClass) -> bool:
        """Whether the least ranks fit its memory so."""
        return self.model.memory(self.first, setting).peak <= kind.device.memory

    def cost(self, ranks: Mapping[str, int], work: Work, sent: Traffic) -> Cost:
        device = work.kind.device
        each = (n * self.model.seconds(ranks, setting, device) for setting, n in work.parts)
        compute = sum(each) / work.presence
        links = seconds_of_links(sent.down + sent.delta, sent.up, device) / work.presence
        return Cost(
            ranks=dict(ranks),
            parameters=self._trained(ranks),
            memory=self.model.memory(ranks, work.heaviest),
            seconds=compute + links,
            compute=compute,
            traffic=sent,
        )

    def _trained(self, ranks: Mapping[str, int]) -> int:
        """Of a rule that trains the same side in every round, that side's."""
        ever = {self.rule.trains(round) for round in ROUNDS}
        if ever not in ({"a"}, {"b"}):
            return self.model.shape.trainable(ranks)
        of_b = ever == {"b"}
        return sum(ranks[x.name] * (x.m if of_b else x.n) for x in self.model.shape.layers)

    def least(self, work: Work) -> Cost:
        """At the least ranks, beside what the others have come to."""
        return self.cost(self.first, work, self._alone(self.first, work.kind))

    def traffic(self, ranks: Mapping[str, Mapping[str, int]]) -> dict[str, Traffic]:
        """Of a client of each class that has ranks."""
        kinds = [x.kind for x in self.works if x.kind.name in ranks]
        cohort = federated(kinds, dict.fromkeys(ranks, 0.0), {}, {}, clients=self.clients)
        return traffic(self.rule, self.model.shape.layers, ranks, cohort.cohort, self.wire)

    def _fits(self, work: Work, ranks: Mapping[str, int]) -> bool:
        if self.model.memory(ranks, work.heaviest).peak > work.kind.device.memory:
            return False
        if not self.limited:
            return True
        sent = self._alone(ranks, work.kind)
        seconds = self.cost(ranks, work, sent).seconds
        return sent.total <= (self.most_bytes or math.inf) and seconds <= (
            self.deadline or math.inf
        )

    def _alone(self, ranks: Mapping[str, int], kind: DeviceClass) -> Traffic:
        """With Δ as far as it is known by now."""
        layers, alone = self.model.shape.layers, {kind.name: ranks}
        sent = traffic(self.rule, layers, alone, {}, self.wire)[kind.name]
        return Traffic(sent.down, sent.ups, self._delta)


def seconds_of_links(down: float, up: float, device: Device) -> float:
    """Of so many bytes from the server and to it."""
    return down / device.downlink + up / device.uplink
