"""Which ranks the devices of a run afford, on its own data, and what decides them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

from flexlora.adapters import Ranks, ranks_in_words
from flexlora.allocation.devices import DeviceClass
from flexlora.allocation.order import Order, in_proportion, uniform
from flexlora.config.clients import MAX_RANK
from flexlora.config.config import Config
from flexlora.config.settings import played_rule
from flexlora.errors import seen
from flexlora.federation.fleet import Fleet
from flexlora.federation.foresight import Foresight
from flexlora.federation.unaffordable import beyond, no_room, too_late
from flexlora.formats.words import size
from flexlora.planning.allotment import Allotment, Cost, Work, seconds_of_links
from flexlora.planning.traffic import traffic
from flexlora.planning.words import duration
from flexlora.rules import Rule
from flexlora.runs.events import Allotted


def allotted(
    fleet: Fleet, config: Config, foresight: Foresight, named: Mapping[str, str], clients: int
) -> Fleet:
    """The fleet with ranks for those clients that are not named with ranks of their own.

    named: client → type of those that are; clients: of a round. Raises ConfigError, naming who is
    closest and by how much, where a class has no room for the least ranks, and where nobody meets
    the deadline or keeps to the bytes (but of devices that clients brought, whose word ends no
    run); ModelError for a model that cannot be foreseen.
    """
    return _Allocation(fleet, config, foresight, named, clients).made()


def unserved(kind: DeviceClass, config: Config, foresight: Foresight) -> str:
    """Why the one client of this class can train at no rank, were it alone: it has no room, or
    misses the deadline or the bytes at the least; "" where it can.

    kind: named as it is to be told. Raises ModelError for a model that cannot be foreseen.
    """
    return _Allocation(Fleet.of_one(kind), config, foresight, {}, 1).unserved()


@final
class _Allocation:
    def __init__(
        self,
        fleet: Fleet,
        config: Config,
        foresight: Foresight,
        named: Mapping[str, str],
        clients: int,
    ) -> None:
        self.fleet, self.config, self.foresight, self.named = fleet, config, foresight, named
        self.clients = clients
        self.rule: Rule = played_rule(config)
        self.deadline = config.federation.deadline_seconds
        self.layers = foresight.shape.layers
        asked = config.clients
        self.in_proportion = asked.order == "ffn-first"
        make = in_proportion if self.in_proportion else uniform
        self.order: Order = make(self.layers, most=asked.max_rank or MAX_RANK)

    def made(self) -> Fleet:
        members = {
            name: [c for c, its in self.fleet.of.items() if its == name and c not in self.named]
            for name in self.fleet.classes
        }
        works = [self._work(name, mine) for name, mine in members.items() if mine]
        if not works:
            return replace(self.fleet, notes=tuple(self._tight()))
        allotment = self._allotment(works)
        for work in works:
            if not allotment.holds(work.heaviest, work.kind):
                who = f"class {work.kind.name} of clients.devices"
                raise no_room(self.foresight, work, allotment.first, who, "its clients")
        found = allotment.settled()
        if not found and not all(x.kind.name in self.fleet.brought for x in works):
            raise too_late(self.config, {x.kind.name: allotment.least(x) for x in works})
        out = [x.kind.name for x in works if x.kind.name not in found]
        ranks = {**found, **dict.fromkeys(out, allotment.first)}
        trained = self._trained(ranks)
        sent = allotment.traffic(trained)
        costs = {
            x.kind.name: allotment.cost(trained[x.kind.name], x, sent[x.kind.name]) for x in works
        }
        why = {
            x.kind.name: self._why(x, ranks[x.kind.name], costs[x.kind.name], x.kind.name in found)
            for x in works
        }
        told = self._told(trained, why)
        brought = [one.words for one in told if one.brought]
        return replace(
            self.fleet,
            afforded={name: self._ranks(held) for name, held in ranks.items()},
            why=why,
            notes=(*self._late(out, costs), *self._tight(), *brought),
            planned={name: _planned(cost) for name, cost in costs.items()},
            allotted=told,
        )

    def unserved(self) -> str:
        ((name, client),) = ((kind, client) for client, kind in self.fleet.of.items())
        work = self._work(name, [client])
        allotment = self._allotment([work])
        if not allotment.holds(work.heaviest, work.kind):
            return str(no_room(self.foresight, work, allotment.first, name))
        return beyond(self.config, allotment.least(work), name)

    def _allotment(self, works: Sequence[Work]) -> Allotment:
        return Allotment(
            self.foresight,
            works,
            self.rule,
            self.order,
            deadline=self.deadline,
            traffic=self.config.clients.most_bytes,
            clients=self.clients,
            wire=self.config.federation.wire,
            stay=True,
        )

    def _work(self, name: str, clients: Sequence[str]) -> Work:
        """Held to the deadline by whoever takes longest of those who meet it at the least ranks: no
        rank makes a client late, and whoever is late at any rank decides none."""
        kind = replace(self.fleet.classes[name], clients=len(clients), named=())
        heaviest = self.foresight.heaviest(self.rule, clients)
        first = self.order.ranks(1)
        sent = traffic(self.rule, self.layers, {name: first}, {}, self.config.federation.wire)[name]

        def seconds(client: str) -> float:
            parts = self.foresight.parts(self.rule, client)
            each = (n * self.foresight.seconds(first, setting, kind.device) for setting, n in parts)
            links = seconds_of_links(sent.down, sent.up, kind.device)
            return (sum(each) + links) / kind.device.availability

        took = {client: seconds(client) for client in clients}
        limit = self.deadline
        in_time = [c for c, s in took.items() if limit is None or s <= limit]
        # Where nobody is in time, whoever is closest.
        slowest = max(in_time, key=took.__getitem__) if in_time else min(took, key=took.__getitem__)
        parts = self.foresight.parts(self.rule, slowest)
        return Work(kind, heaviest, parts, kind.device.availability)

    def _ranks(self, held: Mapping[str, int]) -> Ranks:
        """As patterns that give the same on these layers, few where they can be."""
        if not self.in_proportion:
            return Ranks.of(max(held.values()))
        kinds: dict[str, set[int]] = {}
        for layer in self.layers:
            kinds.setdefault(layer.kind, set()).add(held[layer.name])
        apart = {x.name: held[x.name] for x in self.layers if len(kinds[x.kind]) > 1}
        return Ranks.of({**apart, **{k: rank for k, (rank, *more) in kinds.items() if not more}})

    def _trained(
        self, afforded: Mapping[str, Mapping[str, int]]
    ) -> Mapping[str, Mapping[str, int]]:
        """Class → the ranks at which its clients train: one for all, with those that are named,
        where the rule or clients.level has it so."""
        level = self.config.clients.level
        if level == "own" and self.rule.traits.mixed_ranks:
            return afforded
        named = map(self.config.clients.ranks_of, sorted(set(self.named.values())))
        held = [*afforded.values(), *(x.resolve(self.layers, clip=True) for x in named if x)]
        choose = max if level == "highest" else min
        one = {x.name: choose(mine[x.name] for mine in held) for x in self.layers}
        return dict.fromkeys(afforded, one)

    def _why(self, work: Work, afforded: Mapping[str, int], cost: Cost, keeps: bool) -> str:
        """What a rank more would break, or who has all at one, and what this one takes.

        keeps: whether what it affords keeps to the deadline and the bytes."""
        what = self._bound(work, afforded, keeps)
        if dict(cost.ranks) != dict(afforded):
            level = self.config.clients.level
            one = f"rule {self.rule.name}, which has" if level == "own" else "clients.level, with"
            what = f"{one} one rank for all (its own: {ranks_in_words(afforded)} by {what})"
        return (
            f"{what}; {size(round(cost.memory.peak))} of {size(round(work.kind.device.memory))}, "
            f"{duration(cost.seconds)} a round"
        )

    def _bound(self, work: Work, afforded: Mapping[str, int], keeps: bool) -> str:
        if not keeps:
            return "being the least: even that misses the deadline or the bytes"
        more = self.order.after(afforded)
        if more is None:
            most = self.config.clients.max_rank or MAX_RANK
            top = max(afforded.values()) >= most
            return f"clients.max_rank {most}" if top else "the layers' own sizes"
        if self.foresight.memory(more, work.heaviest).peak > work.kind.device.memory:
            return "memory"
        return "the deadline or the bytes" if self._both() else self._limit()

    def _both(self) -> bool:
        return self.deadline is not None and self.config.clients.traffic is not None

    def _limit(self) -> str:
        return "the deadline" if self.deadline is not None else "clients.traffic"

    def _late(self, out: Sequence[str], costs: Mapping[str, Cost]) -> list[str]:
        return [
            f"class {name} meets the deadline or the bytes at no rank and trains at the least: "
            f"{duration(costs[name].seconds)} a round"
            for name in out
        ]

    def _told(
        self, ranks: Mapping[str, Mapping[str, int]], why: Mapping[str, str]
    ) -> tuple[Allotted, ...]:
        """Who trains at which rank of a device's, and why."""
        mine: dict[str, list[str]] = {name: [] for name in ranks}
        for client, name in self.fleet.of.items():
            if client not in self.named and name in ranks:
                mine[name].append(seen(client))
        return tuple(
            Allotted(
                device=name,
                clients=tuple(mine[name]),
                ranks=ranks_in_words(ranks[name]),
                why=why[name],
                brought=name in self.fleet.brought,
            )
            for name in ranks
        )

    def _tight(self) -> list[str]:
        """Of clients whose ranks are given by name: whether their devices hold that."""
        notes = []
        for client, kind in self.named.items():
            if client not in self.fleet.of:
                continue
            ranks = self.config.clients.ranks_of(kind)
            assert ranks is not None
            setting = self.foresight.heaviest(self.rule, [client])
            held = ranks.resolve(self.layers, clip=True)
            peak, has = self.foresight.memory(held, setting).peak, self.fleet.device(client).memory
            if peak > has:
                notes.append(
                    f"client {client} trains at {kind} by name, which takes {size(round(peak))}, "
                    f"and its device ({self.fleet.of[client]}) has {size(round(has))}"
                )
        return notes


def _planned(cost: Cost) -> dict[str, float]:
    sent = cost.traffic
    return {
        "peak": cost.memory.peak,
        "training": cost.memory.training,
        "seconds": cost.seconds,
        "down": sent.down + sent.delta,
        "up": sent.up,
    }
