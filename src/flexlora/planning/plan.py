"""Ranks from devices: what each class affords, and what a federation of them takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from flexlora.allocation.capacity import capacity_bits, most_bits
from flexlora.allocation.devices import DeviceClass
from flexlora.allocation.order import in_proportion, uniform
from flexlora.errors import InputError
from flexlora.planning.allotment import Allotment, Cost, Work
from flexlora.planning.asked import Asked
from flexlora.planning.federation import Federated, federated
from flexlora.planning.model import Planned
from flexlora.planning.nobody import nobody_fits, nobody_keeps_to
from flexlora.planning.remedies import Remedy, first_that
from flexlora.planning.traffic import Traffic
from flexlora.rules import Rule


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
    def loading(self) -> float | None:
        """Seconds until the base is read from its disk; None where nobody said how fast that is."""
        disk = self.kind.device.disk
        return None if disk is None else self.least.memory.weights / disk

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
        make = uniform if asked.order == "uniform" else in_proportion
        self.allotment = Allotment(
            model,
            [self._work(x) for x in classes],
            rule,
            make(model.shape.layers, most=asked.max_rank),
            deadline=asked.deadline,
            traffic=asked.traffic,
            clients=asked.clients,
            wire=asked.wire,
        )

    def _work(self, kind: DeviceClass) -> Work:
        parts = self.asked.parts(kind, self.setting)
        heaviest, _ = parts[0]
        return Work(kind, heaviest, parts, kind.device.availability)

    def plan(self) -> Plan:
        ranks = self.allotment.settled()
        if not ranks:
            raise self._nobody()
        afforded = {name: self.model.shape.trainable(held) for name, held in ranks.items()}
        there = list(ranks.values())
        if not self.rule.traits.mixed_ranks:
            lowest = {x.name: min(held[x.name] for held in there) for x in self.model.shape.layers}
            ranks = dict.fromkeys(ranks, lowest)
        sent = self.allotment.traffic(ranks)
        plans = tuple(
            self._class_plan(work, ranks.get(work.kind.name), sent, afforded)
            for work in self.allotment.works
        )
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

    def _class_plan(
        self,
        work: Work,
        ranks: Mapping[str, int] | None,
        sent: Mapping[str, Traffic],
        afforded: Mapping[str, int],
    ) -> ClassPlan:
        """ranks: None for a class that affords none."""
        kind, allotment = work.kind, self.allotment
        least = allotment.least(work)
        cost = None if ranks is None else allotment.cost(ranks, work, sent[kind.name])
        short = cost is None and least.memory.peak > kind.device.memory
        return ClassPlan(
            kind=kind,
            steps=work.steps,
            least=least,
            cost=cost,
            afforded=afforded.get(kind.name, 0),
            remedy=first_that(lambda x: allotment.holds(x, kind), work.heaviest) if short else None,
            data_bits=most_bits(
                self.asked.held(kind), self.asked.length, self.model.shape.vocabulary
            ),
        )

    def _nobody(self) -> InputError:
        allotment, asked = self.allotment, self.asked
        held = [x for x in allotment.works if allotment.holds(x.heaviest, x.kind)]
        if not held:
            return nobody_fits(self.model, self.classes, allotment.first, self.setting)
        least = {x.kind.name: allotment.least(x) for x in held}
        seconds = {name: x.seconds for name, x in least.items()}
        sent = min(x.traffic.total for x in least.values())
        return nobody_keeps_to(asked.deadline, asked.traffic, seconds, sent)
