"""The source "jsonl": one JSON object a line, or one array of objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from flexlora.errors import DataError
from flexlora.tasks.files import files_at, parts_of, plain_name, read_text
from flexlora.tasks.json_text import array_items, parsed_json
from flexlora.tasks.limits import Limits
from flexlora.tasks.rows import Row, Rows, kind_of
from flexlora.tasks.table_source import TableSource

SUFFIXES = (".jsonl", ".ndjson")


@final
@dataclass(frozen=True)
class JsonLines(TableSource):
    """A file of JSON lines, or of one array of objects (.json), or a folder of JSON lines.

    Files may be packed by gzip.
    """

    def rows(self, path: str, *, test: bool) -> Rows:
        return read_jsonl(path, self.limits)


def read_jsonl(path: str, limits: Limits) -> Rows:
    """Every line of the file, or of a folder's files in the order of their names.

    Raises DataError naming file and line (or item of an array) for what is no JSON, no object, has
    a key twice, or is beyond the limits.
    """
    files = files_at(path, SUFFIXES)
    rows = [row for file in files for row in _rows(file, limits)]
    columns = dict.fromkeys(name for row in rows for name in row.values)
    return Rows(path, tuple(columns), rows, parts_of(files))


def _rows(path: Path, limits: Limits) -> Iterator[Row]:
    text = read_text(path, limits.table_bytes)
    stem = plain_name(path).stem
    array = text.lstrip().startswith("[")
    for word, number, values in _items(text, path) if array else _lines(text, path, limits):
        where = f"{path}, {word} {number}"
        if not isinstance(values, dict):
            raise DataError(f"{where} is {kind_of(values)}, expected an object; write objects")
        yield Row(where, f"{stem}:{number}", values)


def _lines(text: str, path: Path, limits: Limits) -> Iterator[tuple[str, int, Any]]:
    # Not splitlines: a text may hold line separators that JSON does not take for line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            limits.require_line(where, len(line))
            yield "line", number, parsed_json(line, where, "write one whole object a line")


def _items(text: str, path: Path) -> Iterator[tuple[str, int, Any]]:
    for number, value in enumerate(array_items(text, path, "mend the array"), start=1):
        yield "item", number, value
