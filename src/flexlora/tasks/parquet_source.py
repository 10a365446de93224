"""The source "parquet": any Parquet file with the columns that are named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from flexlora.errors import DataError, shown
from flexlora.tasks.files import files_at, parts_of, require_size
from flexlora.tasks.rows import Row, Rows
from flexlora.tasks.table_source import TableSource

SUFFIXES = (".parquet",)
BATCH = 256  # Rows in memory at once before their size is known: few bytes may stand for many.


@final
@dataclass(frozen=True)
class Parquet(TableSource):
    """A file, or a folder of them. Needs the extra parquet.

    Only the columns that the options name are read. Rows are counted from 0.
    """

    extra = "parquet"

    def rows(self, path: str, *, test: bool) -> Rows:
        wanted = self.named_columns()
        columns: dict[str, None] = {}
        rows: list[Row] = []
        size = 0
        files = files_at(path, SUFFIXES)
        for file in files:
            with opened(file) as table:
                names = table.schema_arrow.names
                columns |= dict.fromkeys(names)
                present = [name for name in dict.fromkeys(names) if name in wanted]
                _require_readable(file, table.schema_arrow, present)
                size = self._measured(path, table, present, size)
                start = len(rows)
                for values in _values(file, table, present):
                    number = len(rows) - start
                    rows.append(Row(f"{file}, row {number}", f"{file.stem}:{number}", values))
        return Rows(path, tuple(columns), rows, parts_of(files))

    def _measured(self, path: str, table: Any, columns: Sequence[str], size: int) -> int:
        """The bytes of these columns and what was read before, none of which is kept yet."""
        for batch in table.iter_batches(batch_size=BATCH, columns=columns):
            size += sum(map(unpacked, batch.columns))
            require_size(path, size, self.limits.table_bytes)
        return size


def unpacked(column: Any) -> int:
    """The bytes of a column's values, also where it names each but once."""
    decode = getattr(column, "dictionary_decode", None)
    return int((column if decode is None else decode()).nbytes)


def _require_readable(path: Path, schema: Any, columns: Sequence[str]) -> None:
    """Raise DataError for a column that comes twice, and for one of times."""
    import pyarrow.types

    for name in columns:
        if schema.names.count(name) > 1:
            raise DataError(
                f"{path}: column {shown(name)} comes {schema.names.count(name)} times; rename them"
            )
        kind = schema.field(name).type
        if pyarrow.types.is_temporal(kind):
            raise DataError(f"{path}: column {shown(name)} is of type {kind}; write it as text")


def _values(path: Path, table: Any, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Row by row. Raises DataError naming the first row that Python cannot hold."""
    done = 0
    for batch in table.iter_batches(batch_size=BATCH, columns=columns):
        try:
            yield from batch.to_pylist()
        except (ValueError, OverflowError, RecursionError):
            for place in range(batch.num_rows):
                try:
                    batch.slice(place, 1).to_pylist()
                except (ValueError, OverflowError, RecursionError) as error:
                    said = " ".join(str(error).split())
                    raise DataError(
                        f"{path}, row {done + place}: it cannot be read ({said}); mend that row"
                    ) from error
            raise
        done += batch.num_rows


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
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise DataError(
            f"{path} is missing, truncated or no parquet file ({reason}); copy the file anew"
        ) from error
