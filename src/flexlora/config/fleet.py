"""The devices that a config names, and what it cannot say without any."""

from __future__ import annotations

from flexlora.allocation.devices import DeviceClass
from flexlora.config.config import Config
from flexlora.config.devices import read_devices
from flexlora.errors import ConfigError
from flexlora.formats.home import expanded


def device_classes(config: Config) -> tuple[DeviceClass, ...]:
    """Those of `clients.devices`; none where none are named.

    Raises ConfigError as `read_devices`, and for a deadline without devices.
    """
    if config.clients.devices is not None:
        return read_devices(expanded(config.clients.devices))
    if config.federation.deadline is not None:
        raise ConfigError(
            f"federation.deadline is {config.federation.deadline}, but clients.devices is not "
            "given, and only the profiles of devices say how long anybody takes; name their file, "
            "or leave the deadline out"
        )
    return ()
