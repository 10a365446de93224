"""Files and folders that appear whole or not at all: written aside, synced, renamed.

A process that is killed leaves at most a hidden sibling (`.<name>.<writer>.<random>.tmp`), never a
target that is half there. Whoever writes the same target next removes it, as `remove_leftovers`
does for all targets of a folder. ~ at the beginning of a path is a user's home.
"""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from flexlora.errors import RunError
from flexlora.formats.home import expanded
from flexlora.formats.refused import refused

_ASIDE = re.compile(
    r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{6})-(?P<process>[0-9]{1,9})\.[0-9a-f]{8}\.tmp"
)


class Taken(RunError):
    """What was to be made is there already."""


LONGEST_PART = 255
"""Bytes of any part of a path: file systems take no more."""
LONGEST_NAME = 200
"""Bytes of the name of what is made: written aside, it is longer."""


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
    target = expanded(path)
    aside = _aside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if synced:  # Else it is of a round, whose folders go as wholes.
            _remove_siblings(target)
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
        raise refused(target, error) from error


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty folder beside `path`; it becomes `path` on success and vanishes on failure.

    Raises Taken when `path` exists (at the start, or by the time of the rename), FlexLoRAError
    when the disk refuses, in the body too. What else the body raises passes through.
    """
    target = expanded(path)
    require_free(target)
    aside = _aside(target)
    try:
        aside.mkdir(parents=True)
        _remove_siblings(target)
        yield aside
        for folder, _, files in os.walk(aside):
            for name in files:
                _sync(Path(folder) / name)
            _sync(Path(folder))
        require_free(target)
        try:
            os.rename(aside, target)
        except OSError:
            require_free(target)  # Somebody else's rename may have come first.
            raise
        _sync(target.parent)
    except OSError as error:
        raise refused(target, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def scratch_file(target: Path) -> Iterator[Path]:
    """Yield the path of a file for the work on `target`; what is there in the end is removed.

    After a kill it goes as what was to become `target` does: with who writes that next.
    """
    path = _aside(target)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder so that nobody, not even after a kill, finds it with only some of its files.

    Raises FileNotFoundError where there is none.
    """
    aside = _aside(path)
    os.rename(path, aside)
    shutil.rmtree(aside)


def leftovers(folder: Path) -> list[Path]:
    """What writers that were killed left aside in `folder` and in the folders below it.

    Not what a living process of this machine writes; of other machines nobody can tell.
    """
    found = ((path, _ASIDE.fullmatch(path.name)) for path in folder.rglob(".*.tmp"))
    return sorted(path for path, match in found if match and not _alive(match, elsewhere=False))


def remove_leftovers(folder: Path) -> None:
    """Remove `leftovers`. For who alone writes in the folder, on whatever machine."""
    for path in leftovers(folder):
        _remove(path)


def _remove_siblings(target: Path) -> None:
    """What dead writers of this very target left beside it; those of other machines may live."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        match = _ASIDE.fullmatch(path.name)
        if match and match["name"] == target.name and not _alive(match, elsewhere=True):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _alive(match: re.Match[str], *, elsewhere: bool) -> bool:
    """Whether the writer of what is so called lives; elsewhere: what to say of other machines."""
    if match["machine"] != _machine():
        return elsewhere
    return bool(psutil.pid_exists(int(match["process"])))


@cache
def _machine() -> str:
    """Tells machines, or containers, that share a disk; nothing of the name can be read from it."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _aside(target: Path) -> Path:
    writer = f"{_machine()}-{os.getpid()}"
    return target.parent / f".{target.name}.{writer}.{secrets.token_hex(4)}.tmp"


def require_free(target: Path | str, what: str = "path") -> None:
    """Raise Taken for a path at which there is anything already. what: to choose another of."""
    if os.path.lexists(expanded(target)):
        raise Taken(f"{target} exists; choose another {what} or remove it")


def _sync(path: Path) -> None:
    """Flush a file's or folder's cached writes to disk (folders: where the system can)."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
