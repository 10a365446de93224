"""Paths that begin with ~, for a user's home."""

from __future__ import annotations

from pathlib import Path


def expanded(path: Path | str) -> Path:
    """The path, written out. One of a user who is not here stays as it is: nothing is there, which
    who looks says in words of its own.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
