"""A client's own device: read from its operator's file, and as it travels, held to bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexlora.allocation.devices import Device
from flexlora.config.devices import DTYPES, named_device, read_devices
from flexlora.errors import ConfigError, nearest, seen, shown
from flexlora.flower.client_file import ClientFile
from flexlora.formats.home import expanded
from flexlora.formats.json_fields import number, numbers

_FIGURES = ("memory", "bandwidth", "uplink", "downlink")
_MOST = 1e21  # Of any figure: more than any machine has.
_RAREST = 1e-6  # Share of the time.


def device_of(client: ClientFile) -> Device | None:
    """The profile that a client's file names; None for none.

    Of a file of several classes that which `client.device` names, else that which names the client.
    Raises ConfigError as `read_devices` does, for a class or device that there is not, and for
    figures that no server takes.
    """
    asked = client.client
    if asked.devices is None:
        if asked.device is None:
            return None
        return _taken(named_device(asked.device, "this client"), asked.device)
    file = expanded(asked.devices)
    classes = {kind.name: kind for kind in read_devices(file)}
    if asked.device is not None:
        if asked.device not in classes:
            raise ConfigError(
                f"client.device is {shown(asked.device)}, which {file} does not have; "
                f"{nearest(asked.device, classes)}"
            )
        return _taken(classes[asked.device].device, asked.device)
    mine = [kind for kind in classes.values() if asked.name in kind.named] or list(classes.values())
    if len(mine) > 1:
        raise ConfigError(
            f"{file} has {len(classes)} classes of devices, and none names client "
            f"{seen(asked.name)}; say with client.device which one it has: {', '.join(classes)}"
        )
    return _taken(mine[0].device, mine[0].name)


def device_facts(device: Device) -> dict[str, Any]:
    """The figures that ranks depend on, as they travel; where they are from stays at the client."""
    figures = {key: getattr(device, key) for key in (*_FIGURES, "availability")}
    return {**figures, "flops": dict(device.flops)}


def facts_device(facts: Mapping[str, Any]) -> Device:
    """Raises ValueError naming the figure: for one that is missing, of another type, or so small or
    large that no device has it."""
    flops = numbers(facts, "flops")
    if not flops or not flops.keys() <= set(DTYPES):
        raise ValueError(f"flops is of {shown(list(flops))}, expected some of {', '.join(DTYPES)}")
    for dtype, value in flops.items():
        _require(f"flops.{dtype}", value, 1.0, _MOST)
    memory, bandwidth, uplink, downlink = (
        _require(key, number(facts, key), 1.0, _MOST) for key in _FIGURES
    )
    availability = _require("availability", number(facts, "availability"), _RAREST, 1.0)
    return Device(memory, flops, bandwidth, uplink, downlink, availability)


def _taken(device: Device, name: str) -> Device:
    """As the server reads it."""
    try:
        return facts_device(device_facts(device))
    except ValueError as error:
        raise ConfigError(
            f"the device {seen(name)} cannot be told to a server: {error}; correct its figures"
        ) from error


def _require(key: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:  # NaN is refused here, too.
        raise ValueError(f"{key} is {shown(value)}, expected {least:g} to {most:g}")
    return value
