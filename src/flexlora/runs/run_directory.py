"""A run directory: everything that one federation was, did and left.

config.toml        what was asked          events.jsonl   what happened
resolved.toml      what was derived        metrics.jsonl  one line a round
environment.json   versions, machine       checkpoints/   round-0007/{state.safetensors,meta.json}
data.json          fingerprint, notes      spectra.jsonl  singular values, validated rounds
format.json        version of this layout  spool/, next/  replies, layers of a round
parent.json        what it began from      results.json   the final scores
trackers.json      its trackers' runs      tensorboard/, wandb/   what those trackers keep
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from flexlora.config.config import Config
from flexlora.config.config_file import load_config
from flexlora.errors import AdapterError, ConfigError, RunError
from flexlora.formats.atomic import atomic_folder, atomic_write, leftovers
from flexlora.formats.json_text import json_text
from flexlora.formats.payloads import load_tensors, save_tensors

FORMAT_VERSION = 2  # 1: checkpoints name ranks by client and layer.
Record = dict[str, Any]
Checkpoint = tuple[Mapping[str, Tensor], Record]
_LOGS = ("events.jsonl", "metrics.jsonl", "spectra.jsonl")
_ROUND = re.compile(r"round-(\d{4,})")


class Run:
    """One run directory. Logs only grow, everything else is replaced whole or not at all.

    Reading needs no lock; whoever plays rounds holds `locked()`.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        """Use `Run.create` or `Run.open`."""
        self.folder = folder
        self.config = config

    @staticmethod
    def create(
        config: Config,
        folder: Path | str | None = None,
        *,
        resolved: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        parent: Mapping[str, Any] | None = None,
        start: Checkpoint | None = None,
    ) -> Run:
        """Make a new run directory: `folder`, or `<run.out>/<run.name>-<n>` with the next free n.

        resolved: choices made by measurement or derivation, reused on resume (no none values);
        data: what was read (fingerprint, counts, notes); parent, start: what the run begins from,
        and its state, kept as the checkpoint of round `parent["start"]`. Raises RunError when the
        folder exists.
        """
        target = Path(folder) if folder is not None else fresh_folder(config)
        with atomic_folder(target) as aside:
            (aside / "checkpoints").mkdir()
            (aside / "config.toml").write_bytes(config.to_toml().encode())
            (aside / "resolved.toml").write_bytes(tomli_w.dumps(resolved or {}).encode())
            (aside / "environment.json").write_text(json_text(environment(), indent=2))
            (aside / "data.json").write_text(json_text(dict(data or {}), indent=2))
            (aside / "format.json").write_text(json_text({"version": FORMAT_VERSION}))
            for name in _LOGS:
                (aside / name).touch()
            if parent is not None and start is not None:
                (aside / "parent.json").write_text(json_text(dict(parent), indent=2))
                Run(aside, config).write_checkpoint(parent["start"], *start)
        return Run(target, config)

    @staticmethod
    def open(folder: Path | str) -> Run:
        """Open a run directory. Raises RunError for what is no run, or one of a newer FlexLoRA."""
        path = Path(folder)
        for name in ("config.toml", "format.json"):
            if not (path / name).is_file():
                raise RunError(f"{folder} is no run: it has no {name}; give a run directory")
        version = Run._table(path, "format.json").get("version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise RunError(
                f"{folder} has run format {version}, this FlexLoRA reads up to {FORMAT_VERSION}; "
                "update FlexLoRA"
            )
        try:
            return Run(path, load_config(path / "config.toml"))
        except ConfigError as error:
            raise RunError(f"{folder} has a config that cannot be used: {error}") from error

    @contextmanager
    def undamaged(self, name: str) -> Iterator[None]:
        """Turn what goes wrong with reading one of this run's own files into a RunError."""
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(self.folder / name) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run against other processes (where the system has file locks).

        Raises RunError when another process holds it; a process that dies lets go of it.
        """
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        with open(self.folder / ".lock", "wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(
                    f"{self.folder} is in use by another process; wait for it or stop it"
                ) from error
            for left in (*leftovers(self.folder), *leftovers(self._checkpoints)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield

    def in_use(self) -> bool:
        """True while a process holds `locked()`; False where the system has no file locks."""
        try:
            import fcntl

            with open(self.folder / ".lock", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except ImportError:  # Windows
            return False
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False

    @property
    def spool(self) -> Path:
        """Where replies of the round in progress lie. Made and emptied by the collector."""
        return self.folder / "spool"

    @property
    def next(self) -> Path:
        """Where the layers of the round in progress lie until they are a checkpoint."""
        return self.folder / "next"

    @property
    def resolved(self) -> Record:
        """The choices made by measurement or derivation."""
        try:
            return tomllib.loads((self.folder / "resolved.toml").read_bytes().decode())
        except (OSError, ValueError) as error:
            raise _damaged(self.folder / "resolved.toml") from error

    @property
    def data(self) -> Record:
        return Run._table(self.folder, "data.json")

    @property
    def environment(self) -> Record:
        return Run._table(self.folder, "environment.json")

    @property
    def parent(self) -> Record | None:
        """What the run began from; None for one that began at the bare base model."""
        began = (self.folder / "parent.json").is_file()
        return Run._table(self.folder, "parent.json") if began else None

    @property
    def start_round(self) -> int | None:
        """The round whose checkpoint is the state that the run began from; None without parent."""
        if self.parent is None:
            return None
        with self.undamaged("parent.json"):
            return int(self.parent["start"])

    def write_results(self, results: Mapping[str, Any]) -> None:
        """The final scores, as results.json."""
        atomic_write(self.folder / "results.json", json_text(dict(results), indent=2))

    def read_results(self) -> Record | None:
        """The final scores, or None for a run that has not ended."""
        done = (self.folder / "results.json").is_file()
        return Run._table(self.folder, "results.json") if done else None

    def append_event(self, event: Mapping[str, Any]) -> None:
        """Add one line to events.jsonl; "round" says which round it belongs to, if any."""
        self._append("events.jsonl", event)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one round's line to metrics.jsonl. JSON lacks NaN and infinity: they become null."""
        self._append("metrics.jsonl", record)

    def append_spectra(self, record: Mapping[str, Any]) -> None:
        """Add one round's line to spectra.jsonl."""
        self._append("spectra.jsonl", record)

    def read_spectra(self) -> list[Record]:
        """The validated rounds' singular values, as `spectra.spectra_record` makes them."""
        return [record for _, record in self._lines("spectra.jsonl")]

    def read_events(self) -> list[Record]:
        return [record for _, record in self._lines("events.jsonl")]

    def read_metrics(self) -> list[Record]:
        """The rounds' records in order; a last line that was cut short by a stop is left out."""
        return [record for _, record in self._lines("metrics.jsonl")]

    def truncate_log(self, round: int) -> None:
        """Drop what was logged for rounds after this one, and a last line that was cut short."""
        for name in _LOGS:
            kept = [line for line, record in self._lines(name) if record.get("round", 0) <= round]
            atomic_write(self.folder / name, b"".join(kept))

    def write_checkpoint(
        self,
        round: int,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        *,
        best: int | None = None,
    ) -> None:
        """Write the state after a round, then remove all but this, the best and the start.

        best: the round that validated best so far (None: none did). meta is anything JSON holds.
        """
        target = self._checkpoint(round)
        if target.exists():
            shutil.rmtree(target)
        with atomic_folder(target) as aside:
            save_tensors(aside / "state.safetensors", tensors)
            (aside / "meta.json").write_text(
                json_text({"best": best, "meta": dict(meta)}, strict=True)
            )
        for older in self.checkpoints():
            if older not in (round, best, self.start_round):
                shutil.rmtree(self._checkpoint(older))

    def checkpoints(self) -> list[int]:
        """The rounds that have a checkpoint, in order."""
        names = self._checkpoints.iterdir() if self._checkpoints.is_dir() else ()
        found = (_ROUND.fullmatch(path.name) for path in names)
        return sorted(int(match[1]) for match in found if match)

    def load_checkpoint(self, round: int | str | None = None) -> Checkpoint | None:
        """(tensors, meta) of a round, "best", or "last" (also None); None where there is none.

        "best" is the last where no round was validated. Raises RunError for a damaged one.
        """
        rounds = self.checkpoints()
        if not rounds:
            if self.parent is not None:
                raise _damaged(self._checkpoints)
            return None
        if round in (None, "last", "best"):
            last = rounds[-1]
            best = self._meta(last).get("best") if round == "best" else None
            round = last if best is None else best
        if round not in rounds:
            return None
        folder = self._checkpoint(int(round))
        try:
            tensors, _ = load_tensors(folder / "state.safetensors")
        except AdapterError as error:
            raise _damaged(folder) from error
        return tensors, dict(self._meta(int(round))["meta"])

    def checkpoint_meta(self, round: int) -> Record:
        """The meta of a kept round, without its tensors. Raises RunError for a damaged one."""
        return dict(self._meta(round)["meta"])

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _checkpoint(self, round: int) -> Path:
        return self._checkpoints / f"round-{round:04d}"

    def _meta(self, round: int) -> Record:
        meta = Run._table(self._checkpoint(round), "meta.json")
        if not isinstance(meta.get("meta"), dict):
            raise _damaged(self._checkpoint(round))
        return meta

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        with open(self.folder / name, "ab") as file:
            file.write((json_text(dict(record)) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

    def _lines(self, name: str) -> list[tuple[bytes, Record]]:
        """(line, record) of a log. Raises RunError for a line that is damaged, but for the last."""
        path = self.folder / name
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        read: list[tuple[bytes, Record]] = []
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise RunError(f"{path}, line {number} is damaged; remove that line") from error
            if not isinstance(record, dict):
                raise RunError(f"{path}, line {number} is no record; remove that line")
            read.append((line, record))
        return read

    @staticmethod
    def _table(folder: Path, name: str) -> Record:
        try:
            table = json.loads((folder / name).read_bytes())
        except (OSError, ValueError) as error:
            raise _damaged(folder / name) from error
        if not isinstance(table, dict):
            raise _damaged(folder / name)
        return table


def fresh_folder(config: Config) -> Path:
    """`<run.out>/<name>-<n>`: the run's name (or its rule's), and one above the largest n there."""
    out, name = Path(config.run.out), config.run.name or config.rule.name
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    names = (pattern.fullmatch(path.name) for path in out.iterdir()) if out.is_dir() else ()
    used = [int(match[1]) for match in names if match]
    return out / f"{name}-{max(used, default=0) + 1}"


def environment() -> Record:
    """Versions and machine, so that numbers can be made again. Nothing that names a person."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in ("flexlora", "torch", "transformers", "safetensors")},
        "commit": _commit(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cpu_count": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _commit() -> str | None:
    """The commit that this code was run from, "+" for changes on top; None outside a checkout."""
    where = Path(__file__).parent
    try:
        git = ["git", "-C", str(where)]
        options: Any = {"capture_output": True, "text": True, "check": True, "timeout": 10}
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


def _damaged(path: Path) -> RunError:
    return RunError(f"{path} is missing or damaged; restore it, or start a new run")
