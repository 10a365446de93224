"""What to say where no class of devices can take part: who is closest, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flexlora.allocation.devices import DeviceClass
from flexlora.allocation.memory import Setting
from flexlora.errors import InputError
from flexlora.formats.words import size
from flexlora.planning.model import Planned
from flexlora.planning.remedies import first_that
from flexlora.planning.words import duration


def nobody_fits(
    model: Planned, classes: Sequence[DeviceClass], first: Mapping[str, int], setting: Setting
) -> InputError:
    """first: the least ranks that there are."""
    needed = model.memory(first, setting).peak
    best = max(classes, key=lambda x: x.device.memory)
    has = best.device.memory
    cure = first_that(lambda x: model.memory(first, x).peak <= has, setting)
    return InputError(
        f"model {model.name} fits no device class: at rank 1 it takes {size(round(needed))}, and "
        f"{best.name}, the closest, has {size(round(has))}, {size(round(needed - has))} too little"
        "; " + (f"give {cure.words}" if cure else "take a smaller model or larger devices")
    )


def nobody_keeps_to(
    deadline: float | None, traffic: float | None, seconds: Mapping[str, float], sent: int
) -> InputError:
    """seconds: class → of a round at the least ranks; sent: bytes of a client in it."""
    if traffic is not None and sent > traffic:
        return InputError(
            f"no device class keeps to --traffic {size(round(traffic))}: at rank 1 a client is "
            f"sent and sends {size(sent)} a round, {size(round(sent - traffic))} too much; raise "
            "it, or adapt fewer layers with --targets"
        )
    assert deadline is not None
    closest = min(seconds, key=lambda name: seconds[name])
    took = seconds[closest]
    return InputError(
        f"no device class meets the deadline of {duration(deadline)}: {closest}, the closest, "
        f"takes {duration(took)} a round at rank 1, {duration(took - deadline)} too long; raise "
        "--deadline, or lower --examples, --epochs or --length"
    )
