"""The devices of a run: which client has which, and which ranks each class affords, and why."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from flexlora.adapters import Ranks
from flexlora.allocation.deal import deal
from flexlora.allocation.devices import Device, DeviceClass
from flexlora.config.config import Config
from flexlora.config.fleet import device_classes
from flexlora.federation.streams import Streams
from flexlora.runs.events import Allotted


@dataclass(frozen=True, eq=False)
class Fleet:
    """classes: name → its clients' device; of: client → its class, of those that have one; brought:
    classes that clients told of themselves; afforded: class → ranks, of those whose clients train
    at what it affords; why: class → what decides that, in words; notes: what else there is to know;
    planned: class → of a client's round, peak (bytes of memory), training (those of it beside the
    base), seconds, down (Δ included) and up (bytes); allotted: who trains at which of these ranks,
    and why, as it is told when a run begins.
    """

    classes: Mapping[str, DeviceClass]
    of: Mapping[str, str]
    afforded: Mapping[str, Ranks]
    why: Mapping[str, str]
    notes: tuple[str, ...] = ()
    planned: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    brought: tuple[str, ...] = ()
    allotted: tuple[Allotted, ...] = ()

    @staticmethod
    def of_one(kind: DeviceClass) -> Fleet:
        """The one client that this class names, which brought it, and nobody else."""
        (client,) = kind.named
        return Fleet({kind.name: kind}, {client: kind.name}, {}, {}, brought=(kind.name,))

    @staticmethod
    def dealt(
        config: Config,
        clients: Sequence[str],
        streams: Streams,
        *,
        said: Mapping[str, str] | None = None,
        before: Mapping[str, str] | None = None,
        brought: Mapping[str, Device] | None = None,
    ) -> Fleet | None:
        """Who has which device, before any ranks; None where nobody has any.

        said, before: client → its type as the data has it, and as it was; those that are classes
        are followed. brought: client → the device that it told of itself, which it has where no
        class of the config names it; those that are the same are a class. Raises ConfigError as
        `device_classes` and `deal`.
        """
        classes = device_classes(config, brought=bool(brought), told=brought is not None)
        named = {client for kind in classes for client in kind.named}
        theirs = {client: x for client, x in (brought or {}).items() if client not in named}
        made = _classes_of(
            theirs, {kind.name for kind in classes} | set(config.clients.all_types())
        )
        of = {client: kind.name for kind in made for client in kind.named}
        if classes:
            known = {**(before or {}), **(said or {})}
            rest = [client for client in clients if client not in of]
            of |= deal(classes, rest, streams.generator("devices"), known)
        if not of:
            return None
        names = tuple(kind.name for kind in made)
        return Fleet({x.name: x for x in (*classes, *made)}, of, {}, {}, brought=names)

    def device(self, client: str) -> Device:
        return self.classes[self.of[client]].device

    @property
    def fingerprint(self) -> str:
        """Of all figures and names, in whatever words the file has them."""
        return hashlib.sha256(repr(tuple(self.classes.values())).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """For data.json: class → figures, clients, whether these told of it themselves, and why it
        trains at its ranks."""
        return {
            name: {
                "memory": kind.device.memory,
                "flops": dict(kind.device.flops),
                "bandwidth": kind.device.bandwidth,
                "uplink": kind.device.uplink,
                "downlink": kind.device.downlink,
                "availability": kind.device.availability,
                "clients": [client for client, its in self.of.items() if its == name],
                "brought": name in self.brought,
                "why": self.why.get(name, ""),
                "planned": dict(self.planned.get(name, {})),
            }
            for name, kind in self.classes.items()
        }


def _classes_of(devices: Mapping[str, Device], taken: Collection[str]) -> list[DeviceClass]:
    """A class for each device that differs, in order of its first client.

    Their names are numbers: what a client calls itself becomes no type, and no path.
    """
    same: dict[str, list[str]] = {}
    for client in sorted(devices):
        same.setdefault(repr(devices[client]), []).append(client)
    names = (name for x in count(1) if (name := f"brought {x}") not in taken)
    return [
        DeviceClass(next(names), devices[clients[0]], len(clients), tuple(clients))
        for clients in same.values()
    ]
