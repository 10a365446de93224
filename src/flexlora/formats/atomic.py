"""Files and folders that appear whole or not at all: written aside, synced, renamed.

A process that is killed leaves at most a hidden sibling (`.<name>.<random>.tmp`), never a target
that is half there. `leftovers` finds such siblings.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flexlora.errors import FlexLoRAError, RunError


def atomic_write(path: Path | str, data: bytes | str) -> None:
    """Replace the file `path` by `data` (text as UTF-8) in one step; parent folders are made.

    After the call the data is on disk, not only in a cache. Raises FlexLoRAError when the disk
    refuses (full, read-only); the old file then stands as it was.
    """
    with atomic_file(path) as aside:
        aside.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: Path | str, *, synced: bool = True) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it replaces `path` on success, else it vanishes.

    As `atomic_write` in all else. synced: False where a loss of power may take the file with it.
    What the body raises passes through, but for OSError.
    """
    target = Path(path)
    aside = _aside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            if synced:
                _sync(aside)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
        if synced:
            _sync(target.parent)
    except OSError as error:
        raise _refused(target, error) from error


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty folder beside `path`; it becomes `path` on success and vanishes on failure.

    Raises RunError when `path` exists (at the start, or by the time of the rename), FlexLoRAError
    when the disk refuses, in the body too. What else the body raises passes through.
    """
    target = Path(path)
    require_free(target)
    aside = _aside(target)
    try:
        aside.mkdir(parents=True)
        yield aside
        for folder, _, files in os.walk(aside):
            for name in files:
                _sync(Path(folder) / name)
            _sync(Path(folder))
        require_free(target)
        os.rename(aside, target)
        _sync(target.parent)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def leftovers(folder: Path) -> list[Path]:
    """What writers that were killed left aside in `folder`. Safe to remove when nobody writes."""
    return sorted(folder.glob(".*.tmp"))


def _aside(target: Path) -> Path:
    return target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"


def require_free(target: Path) -> None:
    """Raise RunError where something is there already."""
    if os.path.lexists(target):
        raise RunError(f"{target} exists; choose another folder or remove it")


def _refused(target: Path, error: OSError) -> FlexLoRAError:
    reason = error.strerror or str(error)
    return FlexLoRAError(
        f"cannot write {target}: {reason}; free space there or choose another folder"
    )


def _sync(path: Path) -> None:
    """Flush a file's or folder's cached writes to disk (folders: where the system can)."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
