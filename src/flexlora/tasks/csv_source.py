"""The source "csv": comma-separated values (or tabs, in .tsv) with a line of column names."""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from flexlora.errors import DataError, shown
from flexlora.tasks.files import files_at, parts_of, plain_name, read_texts
from flexlora.tasks.limits import Limits
from flexlora.tasks.problems import Problems
from flexlora.tasks.rows import Row, Rows
from flexlora.tasks.table_source import TableSource

SUFFIXES = (".csv", ".tsv")


@final
@dataclass(frozen=True)
class Csv(TableSource):
    """A file, or a folder of them, perhaps packed by gzip; all values are text."""

    def rows(self, path: str, *, test: bool) -> Rows:
        return read_csv(path, self.limits)


def read_csv(path: str, limits: Limits) -> Rows:
    """Every record of the file, or of a folder's files in the order of their names.

    `Rows.problems` holds, with file and line, a column without a name or with one twice, records of
    another length, and quotes that do not close, behind which the file is not read on.
    Raises DataError for a file that cannot be read as a whole.
    """
    rows: list[Row] = []
    columns: dict[str, None] = {}
    problems = Problems(path)
    files = files_at(path, SUFFIXES)
    for file, text in read_texts(files, limits.table_bytes):
        header, found = _records(file, text, problems)
        columns |= dict.fromkeys(header)
        rows += found
    return Rows(path, tuple(columns), rows, parts_of(files), problems)


def _records(path: Path, text: str, problems: Problems) -> tuple[list[str], list[Row]]:
    name = plain_name(path)
    lines = io.StringIO(text, newline="")
    delimiter = "\t" if name.suffix.lower() == ".tsv" else ","
    rows: list[Row] = []
    header: list[str] = []
    with _long_fields(), problems.gathered():
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        line = 1
        try:
            for record in reader:
                where = f"{path}, line {line}"
                if record and not header:
                    header = _header(record, where)
                elif record and len(record) != len(header):
                    problems.add(
                        DataError(
                            f"{where}: {len(record)} fields, but the header names {len(header)} "
                            f"columns; mend that line (fields are separated by {delimiter!r})"
                        )
                    )
                elif record:
                    values = dict(zip(header, record, strict=True))
                    rows.append(Row(where, f"{name.stem}:{line}", values))
                line = reader.line_num + 1
        except csv.Error as error:
            ends = "end of data" in str(error)
            reason = "a quote opens there that never closes" if ends else str(error)
            raise DataError(f"{path}, line {line}: {reason}; mend the quotes there") from error
    return header, rows


def _header(record: list[str], where: str) -> list[str]:
    counts = Counter(record)
    for place, name in enumerate(record, start=1):
        if not name.strip():
            raise DataError(
                f"{where}: column {place} of {len(record)} has no name; name it, or take out the "
                "delimiter that makes it"
            )
        if counts[name] > 1:
            raise DataError(
                f"{where}: column {shown(name)} comes {counts[name]} times; rename them"
            )
    return record


@contextmanager
def _long_fields() -> Iterator[None]:
    """Python's reader refuses fields beyond 128 KiB, for the whole process, unless told."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)
