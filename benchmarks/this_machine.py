"""What bits depend on besides the source: the processor, and the libraries that compute."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_LIBRARIES = ("torch", "numpy", "transformers", "tokenizers", "safetensors")
_PROCESSOR = ("model name", "cpu family", "model", "stepping")
# Recorded, but not what bits depend on.
_OTHER = ("commit", "platform", "python", "cpu_count")


def machine() -> dict[str, Any]:
    """Versions and hardware. Nothing that names a person."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_count": len(os.sched_getaffinity(0)),
    }


def other_machine(kept: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs, of all that bits depend on, in words: "torch 2.11, here 2.13"; or nothing."""
    names = [name for name in {**kept, **here} if name not in _OTHER]
    differing = [name for name in names if kept.get(name) != here.get(name)]
    return "; ".join(f"{name} {kept.get(name)}, here {here.get(name)}" for name in differing)


def _processor() -> str:
    """Name, family, model and stepping: names alone are shared by several processors (Linux)."""
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    name, *numbers = (f"{key} {found[key]}" for key in _PROCESSOR if key in found)
    return ", ".join([name.removeprefix("model name "), *numbers])
