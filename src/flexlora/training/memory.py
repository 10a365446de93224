"""What memory a device has left, and what some work took."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import final

import psutil
import torch

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_GROUPS = Path("/proc/self/cgroup")
_LIMITS = Path("/sys/fs/cgroup")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # As glibc's malloc.h numbers them.
_LARGE = 65536  # Bytes of a block from which on it is one of the system's own.


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be taken: on a GPU, or of this machine's memory.

    Where a container (a control group of Linux) limits memory, what is left of the limit counts.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + held
    left = (_left_of_limit(folder) for folder in _control_groups())
    return min([int(psutil.virtual_memory().available), *(x for x in left if x is not None)])


def total_bytes(device: torch.device) -> int:
    """Bytes that there are in all, whoever uses them now: of a GPU, or of this machine's memory.

    Where a container limits memory, the limit counts.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = (_limit(folder) for folder in _control_groups())
    return min([int(psutil.virtual_memory().total), *(x for x in limits if x is not None)])


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """By how many bytes memory rose at most while it worked; None where the system cannot tell."""
    rise = Rise(device)
    work()
    return rise.bytes()


@final
class Rise:
    """By how many bytes the memory of this process rises from now on.

    On a GPU: of what its tensors take there. Else: of the memory that is resident, whoever in the
    process takes it, after what it holds free has gone back to the system. Linux alone can begin a
    process's peak anew; elsewhere, and where a sandbox forbids it, nothing is known.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
            return
        _give_back()
        try:
            _RESET.write_text("5")  # Linux: the peak starts anew.
            self._before = _kibibytes(_STATUS, "VmRSS") * 1024
        except OSError:
            self._before = None

    def bytes(self) -> int | None:
        """At most so far; None where the system cannot tell."""
        if self._before is None:
            return None
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return max(0, _kibibytes(_STATUS, "VmHWM") * 1024 - self._before)


def return_what_is_freed() -> None:
    """From now on this process hands freed memory back at once, where it has glibc's malloc.

    Its peak is then what is in use, without the holes between: a quarter less with 110M parameters.
    Pages that come anew are cleared each time, which takes a third of the speed.
    """
    if sys.platform == "linux" and (set_option := _glibc("mallopt")) is not None:
        for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            set_option(option, _LARGE)


def _give_back() -> None:
    """Return what is free to the system: taken again from there, it would not be seen to rise."""
    if sys.platform == "linux" and (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def _glibc(name: str) -> Callable[..., int] | None:
    """A function that only glibc has."""
    return getattr(ctypes.CDLL(None), name, None)


def _control_groups() -> Iterator[Path]:
    """This process's control group (version 2) and all around it.

    A container sees its own group as the root.
    """
    with suppress(OSError):
        for line in _GROUPS.read_text().splitlines():
            number, _, path = line.split(":", 2)
            if number == "0":
                group = _LIMITS / path.lstrip("/")
                for folder in (group, *group.parents):
                    if not folder.is_relative_to(_LIMITS):
                        break
                    yield folder


def _limit(group: Path) -> int | None:
    try:
        limit = (group / "memory.max").read_text().strip()
    except OSError:  # The root of the machine has no limit.
        return None
    return None if limit == "max" else int(limit)


def _left_of_limit(group: Path) -> int | None:
    """Limit − what is in use; cached files that can go at any time are no use of memory."""
    limit = _limit(group)
    if limit is None:
        return None
    try:
        used = (group / "memory.current").read_text()
        statistics = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return None
    cached = next((int(x.split()[1]) for x in statistics if x.startswith("inactive_file ")), 0)
    return max(0, limit - int(used) + cached)


def _kibibytes(table: Path, field: str) -> int:
    lines = table.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
