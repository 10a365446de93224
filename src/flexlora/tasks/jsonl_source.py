"""The source "jsonl": one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from flexlora.errors import DataError
from flexlora.tasks.columns import Row, Rows, kind_of
from flexlora.tasks.files import files_at, parsed_json, parts_of, read_text
from flexlora.tasks.table_source import TableSource

SUFFIXES = (".jsonl", ".ndjson")


@final
@dataclass(frozen=True)
class JsonLines(TableSource):
    """A file of JSON lines, or a folder of them."""

    def rows(self, path: str, *, test: bool) -> Rows:
        return read_jsonl(path)


def read_jsonl(path: str) -> Rows:
    """Every line of the file, or of a folder's files in the order of their names.

    Raises DataError naming file and line for what is no JSON, no object, or has a key twice.
    """
    files = files_at(path, SUFFIXES)
    rows = [row for file in files for row in _lines(file)]
    columns = dict.fromkeys(name for row in rows for name in row.values)
    return Rows(path, tuple(columns), rows, parts_of(files))


def _lines(path: Path) -> Iterator[Row]:
    # Not splitlines: a text may hold line separators that JSON does not take for line ends.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        values = parsed_json(line, where, "write one whole object a line")
        if not isinstance(values, dict):
            raise DataError(f"{where} is {kind_of(values)}, expected an object; write one a line")
        yield Row(where, f"{path.stem}:{number}", values)
