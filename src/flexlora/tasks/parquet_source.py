"""The source "parquet": any Parquet file with the columns that are named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from flexlora.errors import DataError
from flexlora.tasks.columns import Row, Rows
from flexlora.tasks.files import files_at, parts_of
from flexlora.tasks.table_source import TableSource

SUFFIXES = (".parquet",)


@final
@dataclass(frozen=True)
class Parquet(TableSource):
    """A file, or a folder of them. Needs the extra parquet.

    Only the columns that the options name are read. Rows are counted from 0.
    """

    def rows(self, path: str, *, test: bool) -> Rows:
        wanted = self.named_columns()
        columns: dict[str, None] = {}
        rows: list[Row] = []
        files = files_at(path, SUFFIXES)
        for file in files:
            with opened(file) as table:
                columns |= dict.fromkeys(table.schema_arrow.names)
                present = [name for name in table.schema_arrow.names if name in wanted]
                start = len(rows)
                for batch in table.iter_batches(columns=present):
                    for values in batch.to_pylist():
                        number = len(rows) - start
                        place = f"{file}, row {number}"
                        rows.append(Row(place, f"{file.stem}:{number}", values))
        return Rows(path, tuple(columns), rows, parts_of(files))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A Parquet file; whatever pyarrow says against it becomes a DataError."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{path} is parquet, and pyarrow is not installed; install the extra flexlora[parquet]"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"{path} is missing, truncated or no parquet file ({reason}); copy the file anew"
        ) from error
