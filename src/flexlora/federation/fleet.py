"""The devices of a run: which client has which, and which ranks each class affords, and why."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flexlora.adapters import Ranks
from flexlora.allocation.deal import deal
from flexlora.allocation.devices import Device, DeviceClass
from flexlora.config.config import Config
from flexlora.config.fleet import device_classes
from flexlora.federation.streams import Streams


@dataclass(frozen=True, eq=False)
class Fleet:
    """classes: name → its clients' device; of: client → its class; afforded: class → ranks, of
    those whose clients train at what it affords; why: class → what decides that, in words; notes:
    what else there is to know; planned: class → of a client's round, peak (bytes of memory),
    seconds, down (Δ included) and up (bytes).
    """

    classes: Mapping[str, DeviceClass]
    of: Mapping[str, str]
    afforded: Mapping[str, Ranks]
    why: Mapping[str, str]
    notes: tuple[str, ...] = ()
    planned: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @staticmethod
    def dealt(
        config: Config,
        clients: Sequence[str],
        streams: Streams,
        *,
        said: Mapping[str, str] | None = None,
        before: Mapping[str, str] | None = None,
    ) -> Fleet | None:
        """Who has which device, before any ranks; None for a config without devices.

        said, before: client → its type as the data has it, and as it was; those that are classes
        are followed. Raises ConfigError as `device_classes` and `deal`.
        """
        classes = device_classes(config)
        if not classes:
            return None
        known = {**(before or {}), **(said or {})}
        of = deal(classes, clients, streams.generator("devices"), known)
        return Fleet({x.name: x for x in classes}, of, {}, {})

    def device(self, client: str) -> Device:
        return self.classes[self.of[client]].device

    @property
    def fingerprint(self) -> str:
        """Of all figures and names, in whatever words the file has them."""
        return hashlib.sha256(repr(tuple(self.classes.values())).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """For data.json: class → figures, clients, and why it trains at its ranks."""
        return {
            name: {
                "memory": kind.device.memory,
                "flops": dict(kind.device.flops),
                "bandwidth": kind.device.bandwidth,
                "uplink": kind.device.uplink,
                "downlink": kind.device.downlink,
                "availability": kind.device.availability,
                "clients": [client for client, its in self.of.items() if its == name],
                "why": self.why.get(name, ""),
                "planned": dict(self.planned.get(name, {})),
            }
            for name, kind in self.classes.items()
        }
