"""The devices that a config names, and what it cannot say without any."""

from __future__ import annotations

from flexlora.allocation.devices import DeviceClass
from flexlora.config.config import Config
from flexlora.config.devices import read_devices
from flexlora.errors import ConfigError
from flexlora.formats.home import expanded


def device_classes(
    config: Config, *, brought: bool = False, told: bool = False
) -> tuple[DeviceClass, ...]:
    """Those of `clients.devices`; none where none are named.

    brought: whether clients bring devices of their own, so that there are some all the same; told:
    whether they tell ranks, which `clients.max_rank` bounds, too. Raises ConfigError as
    `read_devices`, and without any devices for what is of devices: a deadline, and how ranks follow
    from them.
    """
    clients = config.clients
    if clients.devices is not None:
        return read_devices(expanded(clients.devices))
    if brought:
        return ()
    for key in ("order", "traffic") if told else ("order", "max_rank", "traffic"):
        if getattr(clients, key) not in (None, "uniform"):
            raise ConfigError(
                f"clients.{key} is {getattr(clients, key)!r}, which is of devices, and "
                "clients.devices is not given; name their file, or leave it out"
            )
    if config.federation.deadline is not None:
        raise ConfigError(
            f"federation.deadline is {config.federation.deadline}, but clients.devices is not "
            "given, and only the profiles of devices say how long anybody takes; name their file, "
            "or leave the deadline out"
        )
    return ()
