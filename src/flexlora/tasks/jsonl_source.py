"""The source "jsonl": one JSON object a line, or one array of objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from flexlora.errors import DataError
from flexlora.tasks.files import files_at, parts_of, plain_name, read_texts
from flexlora.tasks.json_text import array_items, parsed_json
from flexlora.tasks.limits import Limits
from flexlora.tasks.problems import Problems
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

    `Rows.problems` holds, with file and line (or item of an array), what is no JSON, no object, has
    a key twice, or is longer than the limits allow; behind broken JSON an array is not read on.
    Raises DataError for a file that cannot be read as a whole.
    """
    files = files_at(path, SUFFIXES)
    problems = Problems(path)
    texts = read_texts(files, limits.table_bytes)
    rows = [row for file, text in texts for row in _rows(file, text, limits, problems)]
    columns = dict.fromkeys(name for row in rows for name in row.values)
    return Rows(path, tuple(columns), rows, parts_of(files), problems)


def _rows(path: Path, text: str, limits: Limits, problems: Problems) -> Iterator[Row]:
    stem = plain_name(path).stem
    array = text.lstrip().startswith("[")
    read = _items(text, path, problems) if array else _lines(text, path, limits, problems)
    for word, number, values in read:
        where = f"{path}, {word} {number}"
        if isinstance(values, dict):
            yield Row(where, f"{stem}:{number}", values)
        else:
            words = f"{where} is {kind_of(values)}, expected an object; write objects"
            problems.add(DataError(words))


def _lines(
    text: str, path: Path, limits: Limits, problems: Problems
) -> Iterator[tuple[str, int, Any]]:
    # Not splitlines: a text may hold line separators that JSON does not take for line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            with problems.gathered():
                limits.require_line(where, len(line))
                yield "line", number, parsed_json(line, where, "write one whole object a line")


def _items(text: str, path: Path, problems: Problems) -> Iterator[tuple[str, int, Any]]:
    with problems.gathered():
        for number, value in enumerate(array_items(text, path, "mend the array"), start=1):
            yield "item", number, value
