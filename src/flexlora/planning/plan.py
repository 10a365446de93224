"""Ranks from devices: what each class affords, and what a federation of them takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

from flexlora.allocation.capacity import capacity_bits, most_bits
from flexlora.allocation.devices import Device, DeviceClass
from flexlora.allocation.memory import Memory, Setting
from flexlora.allocation.order import Order, in_proportion, uniform
from flexlora.errors import InputError
from flexlora.planning.asked import Asked
from flexlora.planning.federation import Federated, federated
from flexlora.planning.model import Planned
from flexlora.planning.nobody import nobody_fits, nobody_keeps_to
from flexlora.planning.remedies import Remedy, first_that
from flexlora.planning.traffic import Traffic, traffic
from flexlora.rules import Rule

_PASSES = 20  # At most, over all classes, until ranks and what Δ takes agree.


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
        self.shares: dict[str, float] = {}  # Class → bytes of Δ for each of its numbers.

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
        """Class → the ranks that it affords, with what Δ takes of time and bytes.

        Δ depends on who takes part at which ranks: it is counted in proportion to a class's own
        numbers, and the proportion raised until nobody's ranks change.
        """
        ranks = self._ranks()
        for _ in range(_PASSES):
            self._require_some(ranks)
            if self.rule.traits.delta == "none" or not self.asked.limited:
                break
            sent = self._traffic(ranks)
            for name, held in ranks.items():
                share = sent[name].delta / self.model.shape.trainable(held)
                self.shares[name] = max(share, self.shares.get(name, 0.0))
            before, ranks = ranks, self._ranks()
            if ranks == before:
                break
        self._require_some(ranks)
        return ranks

    def _ranks(self) -> dict[str, dict[str, int]]:
        """Class → the ranks that it affords; without those that afford none."""
        found = {}
        for kind in self.classes:
            most = self.order.largest(partial(self._fits, kind))
            if most is not None:
                found[kind.name] = most
        return found

    def _fits(self, kind: DeviceClass, ranks: Mapping[str, int]) -> bool:
        if self.model.memory(ranks, self.setting).peak > kind.device.memory:
            return False
        if not self.asked.limited:
            return True
        sent = self._alone(ranks, kind, self._delta(ranks, kind))
        seconds = self._cost(ranks, kind, sent).seconds
        return sent.total <= (self.asked.traffic or math.inf) and seconds <= (
            self.asked.deadline or math.inf
        )

    def _delta(self, ranks: Mapping[str, int], kind: DeviceClass) -> int:
        """Bytes of Δ, as far as it is known by now."""
        return round(self.shares.get(kind.name, 0.0) * self.model.shape.trainable(ranks))

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
        delta = max(self._delta(self.first, kind), *(x.delta for x in sent.values()))
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
        if not ranks:
            held = [x for x in self.classes if self._holds(self.setting, x)]
            if not held:
                raise nobody_fits(self.model, self.classes, self.first, self.setting)
            sent = {x.name: self._alone(self.first, x, self._delta(self.first, x)) for x in held}
            seconds = {x.name: self._cost(self.first, x, sent[x.name]).seconds for x in held}
            least = min(x.total for x in sent.values())
            raise nobody_keeps_to(self.asked.deadline, self.asked.traffic, seconds, least)


def _seconds_of_links(sent: Traffic, device: Device) -> float:
    return (sent.down + sent.delta) / device.downlink + sent.up / device.uplink
