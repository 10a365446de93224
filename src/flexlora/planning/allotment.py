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

_PASSES = 20  # At most, over all classes, until ranks and what Δ takes agree.


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

    heaviest: its largest batch, which memory has to hold; usual: one of its steps, of which there
    are so many. presence: the share of the time that it works on a round.
    """

    kind: DeviceClass
    heaviest: Setting
    usual: Setting
    steps: int
    presence: float = 1.0


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
    wire: of adapters.
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
    ) -> None:
        self.model, self.works, self.rule, self.order = model, works, rule, order
        self.deadline, self.most_bytes, self.clients = deadline, traffic, clients
        self.wire: Wire = wire
        self.first = order.ranks(1)
        self._shares: dict[str, float] = {}  # Class → bytes of Δ for each of its numbers.

    @property
    def limited(self) -> bool:
        """Whether more than memory decides."""
        return self.deadline is not None or self.most_bytes is not None

    def settled(self) -> dict[str, dict[str, int]]:
        """Class → the ranks that it affords, with what Δ takes of time and bytes; without those
        that afford none.

        Δ depends on who takes part at which ranks: it is counted in proportion to a class's own
        numbers, and the proportion raised until nobody's ranks change.
        """
        ranks = self._ranks()
        for _ in range(_PASSES):
            if not ranks or self.rule.traits.delta == "none" or not self.limited:
                break
            sent = self.traffic(ranks)
            for name, held in ranks.items():
                share = sent[name].delta / self.model.shape.trainable(held)
                self._shares[name] = max(share, self._shares.get(name, 0.0))
            before, ranks = ranks, self._ranks()
            if ranks == before:
                break
        return ranks

    def holds(self, setting: Setting, kind: DeviceClass) -> bool:
        """Whether the least ranks fit its memory so."""
        return self.model.memory(self.first, setting).peak <= kind.device.memory

    def cost(self, ranks: Mapping[str, int], work: Work, sent: Traffic) -> Cost:
        device = work.kind.device
        compute = work.steps * self.model.seconds(ranks, work.usual, device) / work.presence
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

    def least(self, work: Work, delta: int | None = None) -> Cost:
        """At the least ranks. delta: bytes of Δ, where they are known better than by now."""
        sent = self._alone(self.first, work.kind)
        if delta is not None:
            sent = Traffic(sent.down, sent.ups, max(delta, sent.delta))
        return self.cost(self.first, work, sent)

    def traffic(self, ranks: Mapping[str, Mapping[str, int]]) -> dict[str, Traffic]:
        """Of a client of each class that has ranks."""
        kinds = [x.kind for x in self.works if x.kind.name in ranks]
        cohort = federated(kinds, dict.fromkeys(ranks, 0.0), {}, {}, clients=self.clients)
        return traffic(self.rule, self.model.shape.layers, ranks, cohort.cohort, self.wire)

    def _ranks(self) -> dict[str, dict[str, int]]:
        found = {}
        for work in self.works:
            most = self.order.largest(partial(self._fits, work))
            if most is not None:
                found[work.kind.name] = most
        return found

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
        delta = round(self._shares.get(kind.name, 0.0) * self.model.shape.trainable(ranks))
        return Traffic(sent.down, sent.ups, delta)


def seconds_of_links(down: float, up: float, device: Device) -> float:
    """Of so many bytes from the server and to it."""
    return down / device.downlink + up / device.uplink
