"""Whether a rank fits the device that a client brings, and which: by the server's own policy."""

from __future__ import annotations

from flexlora.allocation.devices import Device, DeviceClass
from flexlora.config.config import Config
from flexlora.config.settings import recipe_of
from flexlora.errors import ModelError, seen
from flexlora.federation.absent import Absent
from flexlora.federation.allocating import allotted, unserved
from flexlora.federation.fleet import Fleet
from flexlora.federation.foresight import Foresight
from flexlora.models import AdaptedModel


def why_unserved(
    config: Config, model: AdaptedModel, name: str, device: Device | None, examples: int
) -> str:
    """Why this client, which brings this device and so many examples, can train at no rank; ""
    where it can, where it brings none, and where the config gives it ranks by name."""
    if device is None or name in config.clients.ranks:
        return ""
    foresight = _alone(config, model, name, examples)
    kind = DeviceClass(f"client {seen(name)}", device, 1, (name,))
    try:
        return unserved(kind, config, foresight)
    except ModelError as error:
        return f"no rank follows from the device of client {seen(name)}: {error}; set client.rank"


def served(
    config: Config, model: AdaptedModel, name: str, device: Device, examples: int
) -> tuple[int, str]:
    """The highest rank of a layer that this device affords, and what decides that, in words, with
    nobody else in the round. Raises ModelError for a model that cannot be foreseen.

    For a client that `why_unserved` has nothing against.
    """
    foresight = _alone(config, model, name, examples)
    kind = DeviceClass("it", device, 1, (name,))
    found = allotted(Fleet.of_one(kind), config, foresight, {}, 1)
    held = found.afforded[kind.name].resolve(model.layers, clip=True)
    return max(held.values()), found.why[kind.name]


def _alone(config: Config, model: AdaptedModel, name: str, examples: int) -> Foresight:
    """As the server sees it: so many examples, each as long as any may be."""
    held = {name: Absent(examples, 0, 0, "")}
    return Foresight(config, model, held, recipe_of(config))
