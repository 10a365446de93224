"""Ranks from devices: what each class affords, and what a federation of them takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from flexlora.allocation.capacity import capacity_bits, most_bits
from flexlora.allocation.devices import Device, DeviceClass
from flexlora.allocation.memory import Memory, Setting
from flexlora.allocation.order import Order, in_proportion, uniform
from flexlora.errors import InputError
from flexlora.formats.words import size
from flexlora.planning.asked import Asked
from flexlora.planning.federation import Federated, federated
from flexlora.planning.model import Planned
from flexlora.planning.remedies import Remedy, first_that
from flexlora.planning.traffic import Traffic, traffic
from flexlora.planning.words import duration
from flexlora.rules import Rule

_PASSES = 5  # Over all classes, until ranks and what Δ takes agree.


@dataclass(frozen=True)
class Cost:
    """What a client takes at some ranks. seconds: of a round, links included; compute: of them."""

    ranks: Mapping[str, int]
    parameters: int
    memory: Memory
    seconds: float
    compute: float
    traffic: Traffic


@dataclass(frozen=True)
class ClassPlan:
    """One class of devices. cost: at the ranks that it trains at; least: at rank 1, so that what a
    lower rank saves can be seen; afforded: numbers of the adapter that it could train, which a rule
    of one rank for all leaves unused. Where it does not fit, cost is None, least says what it would
    take, and remedy what would make rank 1 fit.
    """

    kind: DeviceClass
    steps: int
    least: Cost
    cost: Cost | None
    afforded: int
    remedy: Remedy | None
    data_bits: float

    @property
    def capacity(self) -> float:
        """Bits that its adapter may store."""
        return 0.0 if self.cost is None else capacity_bits(self.cost.parameters)

    @property
    def enough(self) -> int:
        """About the rank of all layers that holds all that a client's data can hold at most."""
        return max(1, math.ceil(self.data_bits / capacity_bits(self.least.parameters)))


@dataclass(frozen=True)
class Plan:
    """Of all classes, in their order. federation: None where no class can take part."""

    model: Planned
    asked: Asked
    rule: Rule
    classes: tuple[ClassPlan, ...]
    federation: Federated


def plan(model: Planned, classes: Sequence[DeviceClass], asked: Asked, rule: Rule) -> Plan:
    """Raises InputError, naming who is closest and by how much, where no class fits."""
    return _Planner(model, classes, asked, rule).plan()


@final
class _Planner:
    def __init__(
        self, model: Planned, classes: Sequence[DeviceClass], asked: Asked, rule: Rule
    ) -> None:
        if model.context and asked.length > model.context:
            raise InputError(
                f"--length {asked.length} is above the {model.context:,} positions of model "
                f"{model.name}; lower it"
            )
        self.model, self.classes, self.asked, self.rule = model, classes, asked, rule
        self.setting = asked.setting(rule)
        layers = model.shape.layers
        make = uniform if asked.order == "uniform" else in_proportion
        self.order: Order = make(layers, most=asked.max_rank)
        self.first = self.order.ranks(1)

    def plan(self) -> Plan:
        ranks = self._settled()
        afforded = {name: self.model.shape.trainable(held) for name, held in ranks.items()}
        there = list(ranks.values())
        if not self.rule.traits.mixed_ranks:
            lowest = {x.name: min(held[x.name] for held in there) for x in self.model.shape.layers}
            ranks = dict.fromkeys(ranks, lowest)
        sent = self._traffic(ranks)
        plans = tuple(self._class_plan(x, ranks, sent, afforded) for x in self.classes)
        part = {x.kind.name: x for x in plans if x.cost is not None}
        return Plan(
            self.model,
            self.asked,
            self.rule,
            plans,
            federated(
                [x.kind for x in part.values()],
                {name: x.cost.seconds for name, x in part.items() if x.cost is not None},
                sent,
                afforded,
                clients=self.asked.clients,
                rounds=self.asked.rounds,
            ),
        )

    def _settled(self) -> dict[str, dict[str, int]]:
        """Class → the ranks that it affords, with what Δ takes of a deadline.

        Δ depends on who takes part at which ranks: it is counted in proportion to a class's own
        numbers, and the proportion raised until nobody's ranks change.
        """
        shares: dict[str, float] = {}
        ranks = self._ranks(shares)
        for _ in range(_PASSES):
            self._require_some(ranks)
            if self.rule.traits.delta == "none" or self.asked.deadline is None:
                break
            sent = self._traffic(ranks)
            for name, held in ranks.items():
                share = sent[name].delta / self.model.shape.trainable(held)
                shares[name] = max(share, shares.get(name, 0.0))
            before, ranks = ranks, self._ranks(shares)
            if ranks == before:
                break
        self._require_some(ranks)
        return ranks

    def _ranks(self, shares: Mapping[str, float]) -> dict[str, dict[str, int]]:
        """Class → the ranks that it affords; without those that afford none. shares: class →
        bytes of Δ for each of its numbers."""
        found = {}
        for kind in self.classes:
            most = self.order.largest(lambda held, kind=kind: self._fits(held, kind, shares))  # type: ignore[misc]
            if most is not None:
                found[kind.name] = most
        return found

    def _fits(
        self, ranks: Mapping[str, int], kind: DeviceClass, shares: Mapping[str, float]
    ) -> bool:
        if self.model.memory(ranks, self.setting).peak > kind.device.memory:
            return False
        if self.asked.deadline is None:
            return True
        delta = round(shares.get(kind.name, 0.0) * self.model.shape.trainable(ranks))
        cost = self._cost(ranks, kind, self._alone(ranks, kind, delta))
        return cost.seconds <= self.asked.deadline

    def _alone(self, ranks: Mapping[str, int], kind: DeviceClass, delta: int) -> Traffic:
        sent = traffic(self.rule, self.model.shape.layers, {kind.name: ranks}, {})[kind.name]
        return Traffic(sent.down, sent.up, delta)

    def _traffic(self, ranks: Mapping[str, Mapping[str, int]]) -> dict[str, Traffic]:
        kinds = [x for x in self.classes if x.name in ranks]
        cohort = federated(kinds, dict.fromkeys(ranks, 0.0), {}, {}, clients=self.asked.clients)
        return traffic(self.rule, self.model.shape.layers, ranks, cohort.cohort)

    def _cost(self, ranks: Mapping[str, int], kind: DeviceClass, sent: Traffic) -> Cost:
        compute = self.asked.steps(kind) * self.model.seconds(ranks, self.setting, kind.device)
        links = _seconds_of_links(sent, kind.device)
        return Cost(
            ranks=dict(ranks),
            parameters=self.model.shape.trainable(ranks),
            memory=self.model.memory(ranks, self.setting),
            seconds=compute + links,
            compute=compute,
            traffic=sent,
        )

    def _class_plan(
        self,
        kind: DeviceClass,
        ranks: Mapping[str, Mapping[str, int]],
        sent: Mapping[str, Traffic],
        afforded: Mapping[str, int],
    ) -> ClassPlan:
        taken = sent.get(kind.name)
        delta = taken.delta if taken is not None else 0
        least = self._cost(self.first, kind, self._alone(self.first, kind, delta))
        cost = None if taken is None else self._cost(ranks[kind.name], kind, taken)
        short = cost is None and least.memory.peak > kind.device.memory
        return ClassPlan(
            kind=kind,
            steps=self.asked.steps(kind),
            least=least,
            cost=cost,
            afforded=afforded.get(kind.name, 0),
            remedy=first_that(lambda x: self._holds(x, kind), self.setting) if short else None,
            data_bits=most_bits(
                self.asked.held(kind), self.asked.length, self.model.shape.vocabulary
            ),
        )

    def _holds(self, setting: Setting, kind: DeviceClass) -> bool:
        return self.model.memory(self.first, setting).peak <= kind.device.memory

    def _require_some(self, ranks: Mapping[str, object]) -> None:
        if ranks:
            return
        needed = self.model.memory(self.first, self.setting).peak
        held = [x for x in self.classes if needed <= x.device.memory]
        if not held:
            best = max(self.classes, key=lambda x: x.device.memory)
            cure = first_that(lambda x: self._holds(x, best), self.setting)
            has = best.device.memory
            raise InputError(
                f"model {self.model.name} fits no device class: at rank 1 it takes "
                f"{size(round(needed))}, and {best.name}, the closest, has {size(round(has))}, "
                f"{size(round(needed - has))} too little; "
                + (f"give {cure.words}" if cure else "take a smaller model or larger devices")
            )
        assert self.asked.deadline is not None
        costs = {x.name: self._cost(self.first, x, self._alone(self.first, x, 0)) for x in held}
        closest = min(costs, key=lambda name: costs[name].seconds)
        took = costs[closest].seconds
        raise InputError(
            f"no device class meets the deadline of {duration(self.asked.deadline)}: {closest}, "
            f"the closest, takes {duration(took)} a round at rank 1, "
            f"{duration(took - self.asked.deadline)} too long; raise --deadline, or lower "
            "--examples, --epochs or --length"
        )


def _seconds_of_links(sent: Traffic, device: Device) -> float:
    return (sent.down + sent.delta) / device.downlink + sent.up / device.uplink
