"""One process at a time plays a run; anybody may see whether one does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from flexlora.errors import RunError

_NAME = ".lock"
# Whoever looks holds the lock for a moment: a run does not fail because somebody watches.
_PATIENCE = 0.5  # Seconds.


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run against other processes. The system lets go of it when this one dies.

    Raises RunError when another process holds it, or where nothing can be written.
    """
    lock = FileLock(folder / _NAME, timeout=_PATIENCE)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(f"{folder} is in use by another process; wait for it or stop it") from error
    except OSError as error:
        raise RunError(
            f"{folder} cannot be locked: {error.strerror or error}; make it writable, or copy it"
        ) from error
    try:
        yield
    finally:
        lock.release()


def in_use(folder: Path) -> bool:
    """True while a process is within `locked`. Writes nothing."""
    path = folder / _NAME
    try:
        import fcntl
    except ImportError:
        return path.is_file() and _refuses_another(path)
    try:
        # Shared, so that two who look do not take each other for a run; and for readers alone,
        # where nothing may be written.
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def _refuses_another(path: Path) -> bool:
    """On Windows, which has no shared locks that filelock's would respect."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:  # A folder that may only be read.
        return False
    lock.release()
    return False
