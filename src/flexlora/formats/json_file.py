"""A small JSON file that somebody else may have written, read within limits."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any


def json_table(path: Path, *, limit_bytes: int) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises OSError for a file that is not there or cannot be read, and ValueError that says what is
    wrong: no plain file (a device or a pipe may never end; a link counts as what it leads to), more
    bytes than the limit (before any is parsed), no JSON, no object, text that is no Unicode.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("is no plain file")
    with open(path, "rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ValueError(f"has more than {_size(limit_bytes)}")
    try:
        table = json.loads(data)
        json.dumps(table, ensure_ascii=False).encode()  # Half of a surrogate pair is no text.
    except (ValueError, RecursionError) as error:
        raise ValueError("is not readable JSON") from error
    if not isinstance(table, dict):
        raise ValueError("is not a JSON table")
    return table


def _size(limit: int) -> str:
    return f"{limit >> 20} MB" if limit >= 1 << 20 else f"{limit} bytes"
