"""A round of devices of several classes: how long it takes, who decides that, what travels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flexlora.allocation.devices import DeviceClass
from flexlora.partition.dirichlet import largest_remainder
from flexlora.planning.traffic import Traffic


@dataclass(frozen=True)
class Federated:
    """cohort: class → its clients of a round, in proportion to how many are there and for how much
    of the time. seconds: of a round, which lasts as long as its slowest client; slowest: its class;
    waiting: share of the cohort's time that is spent waiting for it. bytes_down, bytes_up: of a
    round, and where sides take turns of the mean one; total_bytes: of all. unused: share of the
    numbers that devices afford which one lowest rank for all would leave untrained (the bucket
    effect).
    """

    cohort: Mapping[str, int]
    expected: float
    seconds: float
    slowest: str
    waiting: float
    bytes_down: int
    bytes_up: int
    rounds: int
    unused: float

    @property
    def total_bytes(self) -> int:
        return self.rounds * (self.bytes_down + self.bytes_up)


def federated(
    classes: Sequence[DeviceClass],
    seconds: Mapping[str, float],
    sent: Mapping[str, Traffic],
    afforded: Mapping[str, int],
    *,
    clients: int | None = None,
    rounds: int = 1,
) -> Federated:
    """Of classes that can take part, at least one. clients: of a round (default: all that are
    expected to be there); afforded: class → numbers of the adapter that it could train."""
    there = {x.name: x.clients * x.device.availability for x in classes}
    expected = sum(there.values())
    all_ = sum(x.clients for x in classes)
    count = max(1, round(expected) if clients is None else min(clients, all_))
    cohort = _dealt(there, {x.name: x.clients for x in classes}, count)
    part = [name for name, many in cohort.items() if many]
    slowest = max(part, key=lambda name: seconds[name])
    longest = seconds[slowest]
    spent = sum(seconds[name] * cohort[name] for name in part)
    nothing = Traffic(0, (0,), 0)
    held = {name: sent.get(name, nothing) for name in part}
    lowest = min(afforded.values(), default=0)
    whole = sum(afforded.get(x.name, 0) * x.clients for x in classes)
    return Federated(
        cohort=cohort,
        expected=expected,
        seconds=longest,
        slowest=slowest,
        waiting=1 - spent / (longest * count) if longest else 0.0,
        bytes_down=sum((x.down + x.delta) * cohort[name] for name, x in held.items()),
        bytes_up=round(sum(x.mean_up * cohort[name] for name, x in held.items())),
        rounds=rounds,
        unused=1 - lowest * all_ / whole if whole else 0.0,
    )


def _dealt(there: Mapping[str, float], most: Mapping[str, int], count: int) -> dict[str, int]:
    """Class → its places of so many, in proportion to how many are there, but no more than it has
    clients: what a class cannot fill goes to the others."""
    found: dict[str, int] = {}
    while True:
        open_ = {name: held for name, held in there.items() if name not in found}
        total, left = sum(open_.values()), count - sum(found.values())
        shares = largest_remainder([held / total for held in open_.values()], left)
        dealt = dict(zip(open_, shares, strict=True))
        full = {name: most[name] for name, many in dealt.items() if many >= most[name]}
        if not full or len(full) == len(open_):
            return {name: {**dealt, **found, **full}.get(name, 0) for name in there}
        found |= full
