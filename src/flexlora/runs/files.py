"""What all readers of a run directory share: small JSON files, and the error for damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flexlora.errors import RunError

Record = dict[str, Any]


def read_table(path: Path) -> Record:
    """A JSON object. Raises RunError for a file that is missing, or holds anything else."""
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise damaged(path) from error
    if not isinstance(table, dict):
        raise damaged(path)
    return table


def damaged(path: Path) -> RunError:
    return RunError(f"{path} is missing or damaged; restore it, or start a new run")
