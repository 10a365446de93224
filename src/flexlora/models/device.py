"""Where a model can run: the CPU, a CUDA GPU, or Apple's (mps); and when there is no room."""

from __future__ import annotations

import torch

from flexlora.errors import ModelError

AUTO = "auto"
_BEST_FIRST = ("cuda", "mps", "cpu")
# Of a plain RuntimeError, in lower case: torch's allocators, the driver, and libraries whose
# handles need room of their own.


def devices() -> tuple[str, ...]:
    """Every device of this machine that this torch can use: "cpu", "cuda:0", …, "mps"."""
    gpus = tuple(f"cuda:{place}" for place in range(usable_gpus()))
    return ("cpu", *gpus, *(("mps",) if torch.backends.mps.is_available() else ()))


def usable_gpus() -> int:
    """CUDA GPUs that this torch can use: one whose driver is too old is counted, and is none."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def find_device(asked: str) -> torch.device:
    """The device of this name. "auto": the first GPU, else mps, else the CPU; "cuda": the first.

    Raises ModelError, naming what there is, for a device that this machine does not have.
    """
    here = devices()
    if asked == AUTO:
        return torch.device(min(here, key=lambda name: _BEST_FIRST.index(name.partition(":")[0])))
    name = "cuda:0" if asked == "cuda" else asked
    if name not in here:
        raise ModelError(
            f"device '{asked}' is not one of this machine, which has {', '.join(here)}; give one "
            f"of these, or {AUTO}"
        )
    return torch.device(name)
