"""Where a run was played: versions and machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from flexlora.models.device import usable_gpus
from flexlora.models.widened import lacks_bfloat16
from flexlora.runs.files import Record


def environment() -> Record:
    """Versions and machine, so that numbers can be made again. Nothing that names a person.

    cpu_capability: the instructions that torch takes ("AVX2"): processors of one name differ in
    them. widens_bfloat16: whether products of bfloat16 weights are made in float32 here.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "python": platform.python_version(),
        "flexlora": _version("flexlora"),
        "torch": str(torch.__version__),  # With its build, which a package's version need not name.
        **{name: _version(name) for name in ("transformers", "safetensors")},
        "commit": _commit(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "widens_bfloat16": lacks_bfloat16(),
        "cpu_count": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "gpus": [torch.cuda.get_device_name(i) for i in range(usable_gpus())],
    }


def changed(before: Record) -> dict[str, tuple[Any, Any]]:
    """Key → (before, now), for what is not as it was noted."""
    now = environment()
    return {key: (before.get(key), now[key]) for key in now if before.get(key) != now[key]}


def _commit() -> str | None:
    """The commit that this code was run from, "+" for changes on top; None outside a checkout.

    A repository that does not track this very file is somebody else's, with ours installed in it.
    """
    where = Path(__file__)
    try:
        git = ["git", "-C", str(where.parent)]
        options: Any = {"capture_output": True, "text": True, "check": True, "timeout": 10}
        subprocess.run([*git, "ls-files", "--error-unmatch", "--", where.name], **options)
        commit = str(subprocess.run([*git, "rev-parse", "HEAD"], **options).stdout).strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--", "."], **options).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + "+" if changed else commit


def _cpu() -> str:
    """The processor's name, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
