"""A disk that is full, read-only or gone from some moment on, and what has to be said of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commands import Done

FULL, READ_ONLY, GONE, BROKEN = errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EIO
CURES = {
    FULL: "free space there",
    READ_ONLY: "can be written",
    GONE: "the network drive is there",
    BROKEN: "the disk is well",
    errno.EFBIG: "a disk that holds such files",
}
MAKING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Disk:
    """Below `folder`, the system refuses with this error from the at-th operation on."""

    def __init__(self) -> None:
        self.folder = ""
        self.error = self.at = self.seen = 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.folder or event not in ("open", "os.rename", "os.mkdir", "os.truncate"):
            return
        path = os.fsdecode(args[0]) if isinstance(args[0], str | bytes | os.PathLike) else ""
        if not path.startswith(self.folder) or path.endswith(".lock"):
            return
        reads = event == "open" and not self._writes(args[1], args[2])
        if reads and self.error not in (GONE, BROKEN):
            return
        self.seen += 1
        if self.at and self.seen >= self.at:
            raise OSError(self.error, os.strerror(self.error), path)

    @staticmethod
    def _writes(mode: str | None, flags: int) -> bool:
        return any(x in mode for x in "wax+") if mode else bool(flags & MAKING)

    @contextmanager
    def refuses(self, folder: Path, error: int, at: int) -> Iterator[None]:
        self.folder, self.error, self.at, self.seen = str(folder), error, at, 0
        try:
            yield
        finally:
            self.folder = ""


def assert_said(done: Done, error: int) -> None:
    """One sentence of ours, with the system's reason and a cure; and perhaps how to go on."""
    assert done.code in (1, 2), done
    assert "Traceback" not in done.err + done.out
    assert "unexpected" not in done.err
    said = [line for line in done.err.splitlines() if line.startswith("flexlora: ")]
    assert len(said) == 1, done.err
    assert os.strerror(error) in said[0], done.err
    assert CURES[error] in said[0], done.err
