"""The bytes of a small file that somebody else may have written, within a limit."""

from __future__ import annotations

import stat
from pathlib import Path


def read_plain(path: Path, limit_bytes: int) -> bytes:
    """All of a plain file; a link counts as what it leads to.

    Raises OSError for a file that is not there or cannot be read, and ValueError that says what is
    wrong: no plain file (a device or a pipe may never end), or more bytes than the limit.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("is no plain file")
    with open(path, "rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ValueError(f"has more than {_size(limit_bytes)}")
    return data


def _size(limit: int) -> str:
    return f"{limit >> 20} MB" if limit >= 1 << 20 else f"{limit} bytes"
