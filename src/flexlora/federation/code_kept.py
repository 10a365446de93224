"""Own code of a run: its files as they were lie in the run, so that they can always be restored."""

from __future__ import annotations

from pathlib import Path

from flexlora.config import Config
from flexlora.config.settings import code_files
from flexlora.formats.atomic import atomic_write
from flexlora.runs.run_directory import CODE


def keep_code(config: Config, folder: Path) -> None:
    """Copy the files of the rule and of the metrics into the new run, each under its own name; a
    second one of that name under its first digits, too. Nothing runs them from there."""
    kept: dict[str, str] = {}
    for file in code_files(config):
        name = file.path.name
        if kept.setdefault(name, file.fingerprint) != file.fingerprint:
            name = f"{file.path.stem}-{file.fingerprint[:8]}.py"
        (folder / CODE).mkdir(exist_ok=True)
        atomic_write(folder / CODE / name, file.source)
