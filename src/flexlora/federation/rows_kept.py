"""A run that was made of rows in memory has them in its folder, so that it can be gone on with."""

from __future__ import annotations

from pathlib import Path

from flexlora.config.config import Config
from flexlora.errors import DataError, RunError
from flexlora.runs.run_directory import Run
from flexlora.tasks.held_rows import NAME, held_text, hold_text

FOLDER = "rows"


def keep_rows(config: Config, folder: Path) -> None:
    """Write what held rows the config names as JSON lines, one file each, into the new run."""
    for name in _named(config):
        (folder / FOLDER).mkdir(exist_ok=True)
        _file(folder, name).write_text(held_text(name), encoding="ascii")


def hold_kept_rows(run: Run) -> None:
    """Hold the rows of a run again. What is not in its folder may still be held by this process.

    Raises RunError for a file whose rows are not what they were.
    """
    for name in _named(run.config):
        file = _file(run.folder, name)
        try:
            text = file.read_text(encoding="ascii")
        except FileNotFoundError:
            _require_held(name, file)
            continue
        except (OSError, ValueError) as error:
            raise RunError(f"{file} cannot be read ({error}); copy the run anew") from error
        if hold_text(text) != name:
            raise RunError(
                f"the rows in {file} are not those that the run was made of; copy the run anew"
            )


def _require_held(name: str, file: Path) -> None:
    try:
        held_text(name)
    except DataError as error:
        raise RunError(
            f"{file} is missing, which has the rows that the run was made of; copy the run anew, "
            "or hold the same rows again with flexlora.hold_rows before going on"
        ) from error


def _named(config: Config) -> list[str]:
    paths = (str(config.data.options.get(key, "")) for key in ("path", "test_path"))
    return [path for path in paths if config.data.source == "rows" and path.startswith(NAME)]


def _file(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name.removeprefix(NAME)}.jsonl"
