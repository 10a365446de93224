"""What memory a device has left, what some work took, and whether an error says there was none."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_MEMORY = Path("/proc/meminfo")
_WORDS = ("DefaultCPUAllocator", "MPS backend out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # As glibc's malloc.h numbers them.
_LARGE = 65536  # Bytes of a block from which on it is one of the system's own.


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be taken: on a GPU, or of this machine's memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + held
    if _MEMORY.is_file():
        return _kibibytes(_MEMORY, "MemAvailable") * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """By how many bytes memory rose at most while it worked; None where the system cannot tell."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    _give_back()
    try:
        _RESET.write_text("5")  # Linux: the peak starts anew.
    except OSError:
        work()
        return None
    before = _kibibytes(_STATUS, "VmRSS")
    work()
    return (_kibibytes(_STATUS, "VmHWM") - before) * 1024


def out_of_memory(error: BaseException) -> bool:
    """True on any device: some of torch's errors are a plain RuntimeError, known by its words."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in _WORDS)


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


def _kibibytes(table: Path, field: str) -> int:
    lines = table.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
