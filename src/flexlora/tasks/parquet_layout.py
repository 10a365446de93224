"""Super-NaturalInstructions as parquet: train.parquet, test.parquet and tasks.jsonl.

Columns: task, src_index (place in the official file), id (may be null), input, output (list of
references). At most a few rows are in memory, besides what is kept.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from flexlora.errors import DataError, shown
from flexlora.tasks.files import read_text, require_size
from flexlora.tasks.json_text import parsed_json, require_characters
from flexlora.tasks.limits import Limits
from flexlora.tasks.official_layout import Pick, fallback_id, first_text
from flexlora.tasks.parquet_source import BATCH, opened, unpacked
from flexlora.tasks.problems import Problems
from flexlora.tasks.rows import kind_of
from flexlora.tasks.task import Example, Task

_COLUMNS = {
    "task": ("string", "large_string"),
    "src_index": ("int32", "int64"),
    "id": ("string", "large_string"),
    "input": ("string", "large_string"),
    "output": ("list<element: string>", "list<item: string>", "large_list<item: string>"),
}


class ParquetLayout:
    """A folder with {train,test}.parquet and tasks.jsonl."""

    def __init__(self, folder: Path, limits: Limits, problems: Problems) -> None:
        self._folder, self._limits, self._problems = folder, limits, problems
        self._broken = False  # Of tasks.jsonl, a line.
        self._rows: dict[str, dict[str, list[range]]] = {}  # split → task → its runs of rows

    def names(self, split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The tasks of a split, sorted; none is ever listed but absent."""
        names = tuple(sorted(self._index(split)))
        if not names:
            raise DataError(f"{self._path(split)} holds no rows; copy the file anew")
        return names, ()

    def size(self, split: str, name: str) -> int:
        """Number of rows of a task."""
        return sum(map(len, self._index(split)[name]))

    def read(self, split: str, names: Iterable[str], pick: Pick) -> tuple[Task, ...]:
        """Read tasks, keeping the picked rows."""
        wanted: dict[int, str] = {}  # row → task
        examples: dict[str, list[Example]] = {}
        for name in names:
            rows = [row for run in self._index(split)[name] for row in run]
            picked = [rows[i] for i in pick(name, len(rows))]
            if picked and not self._described(name):
                continue
            wanted.update(dict.fromkeys(picked, name))
            examples[name] = []
        for row, values in self._take(split, sorted(wanted)):
            with self._problems.gathered():
                examples[wanted[row]].append(self._example(split, row, values))
        return tuple(Task(name, tuple(kept)) for name, kept in examples.items())

    def _path(self, split: str) -> Path:
        return self._folder / f"{split}.parquet"

    def _index(self, split: str) -> dict[str, list[range]]:
        if split not in self._rows:
            runs: dict[str, list[range]] = {}
            start = 0
            with _open(self._path(split)) as file:
                names = (
                    name
                    for group in range(file.num_row_groups)
                    for batch in self._batches(split, file, group, ["task"])
                    for name in batch.column(0).to_pylist()
                )
                for name, run in groupby(names):
                    stop = start + sum(1 for _ in run)
                    if name is None:
                        raise DataError(
                            f"{self._path(split)}, row {start}: task is null; name each task"
                        )
                    runs.setdefault(name, []).append(range(start, stop))
                    start = stop
            self._rows[split] = runs
        return self._rows[split]

    def _take(self, split: str, rows: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The given ascending rows; row groups that hold none of them are passed over."""
        first = position = 0
        with _open(self._path(split)) as file:
            for group in range(file.num_row_groups):
                stop = first + file.metadata.row_group(group).num_rows
                if bisect_left(rows, stop) == position:
                    first = stop
                    continue
                for batch in self._batches(split, file, group, list(_COLUMNS)):
                    end = bisect_left(rows, first + batch.num_rows)
                    chosen = rows[position:end]
                    kept = batch.take([row - first for row in chosen]).to_pylist() if chosen else []
                    yield from zip(chosen, kept, strict=True)
                    first, position = first + batch.num_rows, end

    def _batches(self, split: str, file: Any, group: int, columns: list[str]) -> Iterator[Any]:
        """A row group, a few rows at a time. Raises DataError once it is beyond the limit."""
        path, size = self._path(split), 0
        for batch in file.iter_batches(batch_size=BATCH, row_groups=[group], columns=columns):
            size += sum(map(unpacked, batch.columns))
            require_size(f"{path}, row group {group},", size, self._limits.table_bytes)
            yield batch

    def _example(self, split: str, row: int, values: dict[str, Any]) -> Example:
        output = values["output"]
        if values["input"] is None or not output or None in output:
            raise DataError(
                f"{self._path(split)}, row {row} (task {values['task']}): input or output is empty "
                "or null; give a text and one or more references"
            )
        given = values["id"] or fallback_id(values["task"], values["src_index"])
        definition, category = self._descriptions[values["task"]]
        texts = (given, definition, values["input"], output, category)
        self._limits.require_row(f"{self._path(split)}, row {row}", *texts)
        return Example(given, definition, values["input"], tuple(output), category)

    def _described(self, name: str) -> bool:
        """Whether tasks.jsonl describes a task; that it does not is a problem of its own."""
        before = self._problems.count
        found = name in self._descriptions
        self._broken |= self._problems.count > before
        if not found and not self._broken:  # Else its line may be one of those that are broken.
            self._problems.add(
                DataError(
                    f"{self._folder / 'tasks.jsonl'} does not describe task {shown(name)}; add its "
                    "line"
                )
            )
        return found

    @cached_property
    def _descriptions(self) -> dict[str, tuple[str, str]]:
        """Task → its definition and category."""
        return _read_descriptions(self._folder / "tasks.jsonl", self._limits, self._problems)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """A parquet file with the columns of this layout. Raises DataError as `opened` does."""
    with opened(path) as file:
        _check_columns(path, {field.name: str(field.type) for field in file.schema_arrow})
        yield file


def _check_columns(path: Path, found: dict[str, str]) -> None:
    missing = [name for name in _COLUMNS if name not in found]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; its columns are {', '.join(found)}: "
            f"give {', '.join(_COLUMNS)}"
        )
    for name, types in _COLUMNS.items():
        if found[name] not in types:
            raise DataError(
                f"{path}, column {name}: type {found[name]}, expected {types[0]}; convert it"
            )


def _read_descriptions(
    path: Path, limits: Limits, problems: Problems
) -> dict[str, tuple[str, str]]:
    result: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(read_text(path, limits.table_bytes).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        with problems.gathered():
            limits.require_line(where, len(line))
            name, definition, category = _description(line, where)
            if name in result:
                raise DataError(f"{where}: task {shown(name)} is described twice; keep one line")
            result[name] = definition, category
    return result


def _description(line: str, where: str) -> tuple[str, str, str]:
    """A task, its definition and its category."""
    entry = parsed_json(line, where, "copy the file anew")
    if not isinstance(entry, dict):
        raise DataError(f"{where} is {kind_of(entry)}, expected an object; mend it")
    name = first_text(entry.get("task"), f"{where}: task")
    definition = first_text(entry.get("definition"), f"{where}: definition")
    category = first_text(entry.get("category"), f"{where}: category")
    require_characters(where, (name, definition, category))
    return name, definition, category
