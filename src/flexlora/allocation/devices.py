"""What a device can do, in plain numbers, and which clients have one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flexlora.errors import ConfigError, nearest, shown


@dataclass(frozen=True)
class Device:
    """One device as its profile tells it.

    memory: bytes that training may take, the base model's among them. flops: dtype → operations a
    second of matrix products. bandwidth: bytes a second between memory and processor. uplink,
    downlink: bytes a second to and from the server. availability: the share of time that it can be
    asked. disk: bytes a second that it reads; None: nobody said. sources: key of the profile →
    where its figure is from.
    """

    memory: float
    flops: Mapping[str, float]
    bandwidth: float
    uplink: float
    downlink: float
    availability: float = 1.0
    disk: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def speed(self, dtype: str) -> float:
        """Operations a second in this dtype; where the profile has none, of the dtype that it has
        a figure for, the slowest first: what a device cannot do it does in another one's stead."""
        return self.flops.get(dtype) or min(self.flops.values())


@dataclass(frozen=True)
class DeviceClass:
    """Clients with the same device: how many, by name where they have names.

    examples: that each of them holds; None where nobody said.
    """

    name: str
    device: Device
    clients: int
    named: tuple[str, ...] = ()
    examples: int | None = None


def require_once(classes: Sequence[DeviceClass]) -> None:
    """Raise ConfigError, naming both classes, for a client that is named twice."""
    owner: dict[str, str] = {}
    for kind in classes:
        for client in kind.named:
            if client in owner:
                raise ConfigError(
                    f"client {shown(client)} is named in {owner[client]} and in {kind.name}; "
                    "name it in one of them, once"
                )
            owner[client] = kind.name


def require_known(classes: Sequence[DeviceClass], clients: Sequence[str]) -> None:
    """Raise ConfigError, naming it and its class, for a client that the data does not have."""
    known = set(clients)
    for kind in classes:
        for client in kind.named:
            if client not in known:
                raise ConfigError(
                    f"client {shown(client)} of {kind.name} is not in the data; "
                    f"{nearest(client, known)}"
                )
