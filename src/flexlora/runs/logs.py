"""A log of a run: one JSON object a line. It grows, and is cut back only where a run resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, final

from flexlora.errors import RunError
from flexlora.formats.atomic import atomic_write
from flexlora.formats.json_fields import whole
from flexlora.formats.json_text import json_text
from flexlora.runs.files import Record

T = TypeVar("T")


@final
class Log:
    """A file that may be missing: it then has no lines.

    A line that was cut short by a stop, the last one without its end, is left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any], *, durable: bool = True) -> None:
        """Add a line. JSON lacks NaN and infinity: they become null.

        durable: the line is on disk when this returns, and so are all before it; without, other
        processes see it, but a loss of power may take it.
        """
        with open(self.path, "ab") as file:
            file.write((json_text(dict(record)) + "\n").encode())
            if durable:
                file.flush()
                os.fsync(file.fileno())

    def records(self) -> list[Record]:
        """All lines in order. Raises RunError for one that is damaged, but for the last."""
        return [record for _, record in self._lines()]

    def read(self, parse: Callable[[Record], T]) -> list[T]:
        """What `parse` makes of each line. A ValueError of it becomes a RunError with the line."""
        found = []
        for number, (_, record) in enumerate(self._lines(), 1):
            try:
                found.append(parse(record))
            except ValueError as error:
                raise self._damaged(number, f"is damaged ({error})") from error
        return found

    def truncate(self, round: int) -> None:
        """Drop the lines of rounds after this one, and a last line that was cut short.

        Raises RunError for a line that is damaged.
        """
        rounds = self.read(lambda record: whole(record, "round") if "round" in record else 0)
        lines = (line for line, _ in self._lines())
        kept = [line for line, of in zip(lines, rounds, strict=True) if of <= round]
        atomic_write(self.path, b"".join(kept))

    def _lines(self) -> list[tuple[bytes, Record]]:
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        read: list[tuple[bytes, Record]] = []
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise self._damaged(number, "is damaged") from error
            if not isinstance(record, dict):
                raise self._damaged(number, "is no record")
            read.append((line, record))
        return read

    def _damaged(self, number: int, what: str) -> RunError:
        return RunError(f"{self.path}, line {number} {what}; remove that line")
