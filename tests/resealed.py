"""A run directory that was changed, made consistent again: as whoever means it could do."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from flexlora.formats.checked import file_digest, with_check
from flexlora.runs.sums import write_sums

LOGS = ("events", "metrics", "spectra")
ONCE = (
    "config.toml",
    "data.json",
    "environment.json",
    "format.json",
    "parent.json",
    "trained.json",
)


def reseal(folder: Path) -> Path:
    """Digests and checks of what is there now. Lines and files that are no JSON stay as they are.

    Logs may have been written without checks.
    """
    ends = {name: _log(folder / f"{name}.jsonl") for name in LOGS}
    results = folder / "results.json"
    if results.is_file():
        with suppress(ValueError, RecursionError):
            results.write_text(with_check(_plain(results.read_bytes()), indent=2)[0])
    once = [path for path in map(folder.joinpath, (*ONCE, "resolved.toml")) if path.is_file()]
    lines = [f"{file_digest(path)}  {path.name}\n" for path in once]
    (folder / "SHA256SUMS").write_text("".join(lines))
    run = file_digest(folder / "SHA256SUMS")
    for checkpoint in (folder / "checkpoints").glob("round-*"):
        with suppress(ValueError, RecursionError, OSError):
            meta = json.loads((checkpoint / "meta.json").read_bytes())
            if isinstance(meta, dict):
                round = int(checkpoint.name.partition("-")[2])
                meta = {"best": None} | meta | {"run": run, "round": round, "logs": ends}
                (checkpoint / "meta.json").write_text(json.dumps(meta))
        write_sums(checkpoint)
    return folder


def _log(path: Path) -> str:
    last, made = "", []
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else []:
        try:
            text, last = with_check(_plain(line), last)
            made.append((text + "\n" * line.endswith(b"\n")).encode())
        except (ValueError, RecursionError):
            made.append(line)
    path.write_bytes(b"".join(made))
    return last


def _plain(text: bytes) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict) or not found.keys() - {"check"}:
        raise ValueError(text)
    return {key: value for key, value in found.items() if key != "check"}
