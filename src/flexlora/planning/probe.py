"""What this machine can do, measured: a device profile of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from flexlora.models.device import find_device
from flexlora.training.memory import free_bytes

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SIDE = {"cpu": 1024, "cuda": 8192}
_BLOCK = {"cpu": 16 << 20, "cuda": 256 << 20}  # Numbers that are copied: more than caches hold.
_TURNS = 5  # Of which the quickest counts: whoever else uses the machine only slows it down.


def probed(device: str = "auto") -> dict[str, Any]:
    """memory, flops by dtype and bandwidth as texts with units, and sources that say how.

    Free memory is that of now; products are of square matrices; the bandwidth that of a copy, read
    and written. Takes a second or two. Raises ModelError for a device that is not there.
    """
    place = find_device(device)
    side = _SIDE.get(place.type, _SIDE["cpu"])
    speeds = {name: 2 * side**3 / _product(side, dtype, place) for name, dtype in _DTYPES.items()}
    block = torch.ones(_BLOCK.get(place.type, _BLOCK["cpu"]), device=place)
    copied = 2 * block.nbytes / _quickest(block.clone, place)
    how = f"measured by flexlora probe on {place}, {torch.get_num_threads()} threads"
    return {
        "memory": f"{free_bytes(place) / 1e9:.2f} GB",
        "flops": {name: f"{speed / 1e9:.1f} GFLOPS" for name, speed in speeds.items()},
        "bandwidth": f"{copied / 1e9:.2f} GB/s",
        "sources": {
            "memory": f"free, {how}",
            "flops": f"products of {side} × {side} matrices, {how}",
            "bandwidth": f"a copy of {block.nbytes >> 20} MiB, {how}",
        },
    }


def _product(side: int, dtype: torch.dtype, place: torch.device) -> float:
    square = torch.ones(side, side, dtype=dtype, device=place)
    return _quickest(partial(torch.mm, square, square), place)


def _quickest(work: Callable[[], object], place: torch.device) -> float:
    """Seconds."""
    took = []
    for _ in range(_TURNS + 1):  # What is done once is done in the first.
        began = time.perf_counter()
        work()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        took.append(time.perf_counter() - began)
    return min(took[1:])
