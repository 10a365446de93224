"""A log that grows, followed from where it was read last; and noticed when it is another one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, final

PIECE = 1 << 22  # Bytes that one `read` takes at most.
_KEPT = 64  # Bytes before the place that must be there still: they hold the last line's check.


@final
class Tail:
    """The whole lines of a file that came since they were read last.

    A line without its end is left until it has one. A file that was cut back or replaced, as where
    a run resumes, is read anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] = ()  # What the system said of the file when it was read.
        self._at = 0
        self._before = b""

    def read(self) -> tuple[bool, list[bytes]]:
        """(whether the file begins anew, lines); no line where nothing came.

        One call takes a piece of a long file; whoever wants all calls until there is no line.
        Raises OSError for a file that cannot be read; one that is missing has no line.
        """
        try:
            now = os.stat(self.path)
        except FileNotFoundError:
            anew = self._at > 0
            self._seen, self._at, self._before = (), 0, b""
            return anew, []
        seen = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)
        if seen == self._seen:
            return False, []
        with open(self.path, "rb") as file:
            anew = self._at > 0 and not self._same(file)
            if anew:
                self._at, self._before = 0, b""
            file.seek(self._at)
            piece = file.read(PIECE)
            while b"\n" not in piece and (more := file.read(PIECE)):
                piece += more
        whole = piece[: piece.rfind(b"\n") + 1]
        if self._at + len(piece) >= now.st_size:
            self._seen = seen  # Else the next call goes on.
        self._at += len(whole)
        self._before = (self._before + whole)[-_KEPT:]
        return anew, whole.splitlines(keepends=True)

    def _same(self, file: BinaryIO) -> bool:
        """Whether what was read last stands where it stood."""
        file.seek(self._at - len(self._before))
        return file.read(len(self._before)) == self._before
