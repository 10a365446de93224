"""What all readers of a run directory share: small JSON files, and the error for damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flexlora.errors import RunError

Record = dict[str, Any]
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
        table = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path) from error
    if not isinstance(table, dict):
        raise damaged(path)
    return table


def damaged(path: Path, what: object = "") -> RunError:
    """what: is wrong with it, as far as that can be told."""
    reason = f" ({what})" if what else ""
    return RunError(f"{path} is missing or damaged{reason}; {CURE}")
