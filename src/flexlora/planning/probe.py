"""What this machine can do, measured: a device profile of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from flexlora.models.device import find_device
from flexlora.models.widened import product
from flexlora.training.memory import free_bytes

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SIDE = {"cpu": 1024, "cuda": 8192}
_BLOCK = {"cpu": 4 << 20, "cuda": 64 << 20}  # Numbers of each block: more than caches hold.
_TURNS = 5  # Of which the quickest counts: whoever else uses the machine only slows it down.


@dataclass(frozen=True)
class Rates:
    """What the cost model takes of a processor (see `allocation.work`): operations a second of
    products by dtype, and bytes a second to and from memory."""

    flops: Mapping[str, float]
    bandwidth: float


def rates(
    place: torch.device,
    dtypes: Sequence[str] = tuple(_DTYPES),
    clock: Callable[[], float] = time.perf_counter,
) -> Rates:
    """Measured: products of square matrices, as layers of a base in this dtype make them (by way of
    float32 where a processor lacks bfloat16), and a product number by number of two blocks, two
    read and one written, in memory that is held already. clock: gives seconds."""
    side = _SIDE.get(place.type, _SIDE["cpu"])
    speeds = {}
    for name in dtypes:
        square = torch.ones(side, side, dtype=_DTYPES[name], device=place)
        speeds[name] = 2 * side**3 / _quickest(partial(product, square, square, None), place, clock)
    one, other, out = torch.ones(3, _BLOCK.get(place.type, _BLOCK["cpu"]), device=place)
    moved = 3 * one.nbytes / _quickest(partial(torch.mul, one, other, out=out), place, clock)
    return Rates(speeds, moved)


def probed(device: str = "auto") -> dict[str, Any]:
    """memory, flops by dtype and bandwidth as texts with units, and sources that say how.

    Free memory is that of now; the others see `rates`. Takes a second or two. Raises ModelError for
    a device that is not there.
    """
    place = find_device(device)
    found = rates(place)
    side, block = (sizes.get(place.type, sizes["cpu"]) for sizes in (_SIDE, _BLOCK))
    how = f"measured by flexlora probe on {place}, {torch.get_num_threads()} threads"
    return {
        "memory": f"{free_bytes(place) / 1e9:.2f} GB",
        "flops": {name: f"{speed / 1e9:.1f} GFLOPS" for name, speed in found.flops.items()},
        "bandwidth": f"{found.bandwidth / 1e9:.2f} GB/s",
        "sources": {
            "memory": f"free, {how}",
            "flops": f"products of {side} × {side} matrices, {how}",
            "bandwidth": f"products number by number of {block} each, {how}",
        },
    }


def _quickest(work: Callable[[], object], place: torch.device, clock: Callable[[], float]) -> float:
    """Seconds."""
    took = []
    for _ in range(_TURNS + 1):  # What is done once is done in the first.
        began = clock()
        work()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        elif place.type == "mps":
            torch.mps.synchronize()
        took.append(clock() - began)
    return min(took[1:])
