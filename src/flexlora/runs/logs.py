"""A log of a run: one JSON object a line. It grows, and is cut back only where a run resumes.

The last entry of a line is its `check`, a digest of the line and of the check before it: a line
that was changed, lost, moved or added is found. A checkpoint notes the check at which each log
stood, so that lines lost at the end are found, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, final

from flexlora.errors import RunError
from flexlora.formats.atomic import atomic_write
from flexlora.formats.checked import checked, with_check
from flexlora.formats.json_fields import whole
from flexlora.formats.refused import refused
from flexlora.runs.files import CURE, Record

T = TypeVar("T")


@final
class Log:
    """A file that may be missing: it then has no lines.

    A line that was cut short by a stop, the last one without its end, is left out. One process
    writes at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = -1  # Of the file when `_last` was read.
        self._last = ""

    def append(self, record: Mapping[str, Any], *, durable: bool = True) -> None:
        """Add a line. JSON lacks NaN and infinity: they become null.

        durable: the line is on disk when this returns, and so are all before it; without, other
        processes see it, but a loss of power may take it.
        Raises FlexLoRAError when the disk refuses.
        """
        try:
            with open(self.path, "ab") as file:
                if file.tell() != self._size:
                    self._size = -1
                    self._last = self.last()
                    file.truncate(sum(len(line) for line in self._whole()))
                line, self._last = with_check(record, self._last)
                file.write((line + "\n").encode())
                file.flush()
                self._size = file.tell()
                if durable:
                    os.fsync(file.fileno())
        except OSError as error:
            raise refused(self.path, error) from error

    def last(self) -> str:
        """The check of the last line; "" without any. Raises RunError for a damaged line."""
        if self.path.is_file() and self.path.stat().st_size == self._size:
            return self._last  # Nobody else has written since: it need not be read again.
        lines = self._lines()
        return lines[-1][1] if lines else ""

    def records(self, after: str = "") -> list[Record]:
        """All lines in order. Raises RunError for one that is damaged, but for the last.

        after: the check of a line that has to be there still ("": of none). Raises RunError where
        the lines up to it are gone.
        """
        lines = self._lines()
        if after and after not in (check for _, check in lines):
            raise RunError(f"{self.path} lacks lines that a checkpoint was made after; {CURE}")
        return [record for record, _ in lines]

    def read(self, parse: Callable[[Record], T], after: str = "") -> list[T]:
        """What `parse` makes of each of `records`. Its ValueError becomes a RunError with the line.

        Raises RunError as `records` does.
        """
        found = []
        for number, record in enumerate(self.records(after), 1):
            try:
                found.append(parse(record))
            except (ValueError, OverflowError) as error:
                raise self._damaged(number, error) from error
        return found

    def truncate(self, round: int, after: str = "") -> None:
        """Drop the lines of rounds after this one, and a last line that was cut short.

        Raises RunError as `records` does.
        """

        def parse(record: Record) -> tuple[int, Record]:
            return whole(record, "round") if "round" in record else 0, record

        kept, last = [], ""
        for of, record in self.read(parse, after):
            if of <= round:
                line, last = with_check(record, last)
                kept.append(line + "\n")
        atomic_write(self.path, "".join(kept))
        self._size = -1

    def _whole(self) -> list[bytes]:
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        return lines

    def _lines(self) -> list[tuple[Record, str]]:
        read: list[tuple[Record, str]] = []
        for number, line in enumerate(self._whole(), 1):
            try:
                read.append(checked(line, read[-1][1] if read else ""))
            except ValueError as error:
                raise self._damaged(number, error) from error
        return read

    def _damaged(self, number: int, error: Exception) -> RunError:
        return RunError(f"{self.path}, line {number} is damaged ({error}); {CURE}")
