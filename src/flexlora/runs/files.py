"""What all readers of a run directory share: small JSON files, and the error for damaged ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flexlora.errors import RunError
from flexlora.formats.json_file import json_table

Record = dict[str, Any]
_LARGEST = 1 << 30  # Bytes; a checkpoint's names grow with its clients and layers.
CURE = "restore it, or start a new run"
# What reading and taking apart somebody's JSON or TOML may raise.
UNREADABLE = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
)


def read_table(path: Path) -> Record:
    """A JSON object. Raises RunError for a file that is missing, or holds anything else."""
    try:
        return json_table(path, limit_bytes=_LARGEST)
    except OSError as error:
        raise damaged(path) from error
    except ValueError as error:
        raise damaged(path, f"it {error}") from error


def damaged(path: Path, what: object = "") -> RunError:
    """what: is wrong with it, as far as that can be told."""
    reason = f" ({what})" if what else ""
    return RunError(f"{path} is missing or damaged{reason}; {CURE}")
