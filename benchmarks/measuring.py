"""Seconds, peak memory, and the speed of the machine itself."""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
# Freed memory goes back at once, so that peaks are those of what is held.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
_SQUARE = 2048
_SAMPLE_SECONDS = 0.005


def new_file(text: str) -> Path:
    """An --out that can be written, its folder made, so that nothing is measured for nothing."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; give a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def seconds(work: Callable[[], T], device: str) -> tuple[float, T]:
    """How long it took, the device's own queue included, and what it gave."""
    finish(device)
    began = time.perf_counter()
    done = work()
    finish(device)
    return time.perf_counter() - began, done


def finish(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def gpu(device: str) -> dict[str, str]:
    """{"gpu": its name}, where the device is one."""
    return {} if device == "cpu" else {"gpu": torch.cuda.get_device_name(device)}


def product_rate(device: str) -> float:
    """Operations a second of one float32 product of 2048 × 2048 matrices."""
    a, b = torch.ones(_SQUARE, _SQUARE, device=device), torch.ones(_SQUARE, _SQUARE, device=device)
    took, _ = seconds(lambda: a @ b, device)
    return 2 * _SQUARE**3 / took


def in_child(work: Callable[..., T], *arguments: object, threads: int, frugal: bool = True) -> T:
    """What `work` gives in a fresh process.

    frugal: its allocator gives back what is freed at once. Peaks are then those of what is held;
    seconds are longer.
    """
    before = {name: os.environ.get(name) for name in _MALLOC}
    os.environ.update(_MALLOC if frugal else {})
    try:
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            1, mp_context=fresh, initializer=begin, initargs=(threads,)
        ) as pool:
            return pool.submit(work, *arguments).result()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def begin(threads: int, device: str = "cpu") -> None:
    """Before anything is measured: threads have their stacks, and libraries their buffers."""
    torch.set_num_threads(threads)
    square = torch.rand(512, 512, device=device)
    torch.linalg.svd(square @ square)
    torch.linalg.eigh(square.double() @ square.double().T)


def peak_of(work: Callable[[], object], device: str) -> int:
    """By how many bytes memory rose at most: the device's, or resident memory of this process."""
    if device != "cpu":
        finish(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        finish(device)
        return torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew.
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


@contextmanager
def own_memory() -> Iterator[list[int]]:
    """A list whose one number is, in the end, by how many bytes own memory rose at most.

    Sampled. Pages of files that are mapped are not counted: they are the system's cache, and go
    when something else wants the room. What the process has freed is given back first: a rise that
    fits into it would not be seen.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    before, found, done = _status("RssAnon"), [0], threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            found[0] = max(found[0], _status("RssAnon") - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
