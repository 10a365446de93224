"""Super-NaturalInstructions as its official repository lays it out: one JSON file per task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from flexlora.errors import DataError, shown
from flexlora.tasks.files import read_text
from flexlora.tasks.json_text import parsed_json, require_characters
from flexlora.tasks.limits import Limits
from flexlora.tasks.problems import Problems
from flexlora.tasks.rows import kind_of
from flexlora.tasks.task import Example, Task

Pick = Callable[[str, int], Sequence[int]]  # (task name, number of its examples) → those to keep


def first_text(value: object, where: str) -> str:
    """A text, or the first text of a list of texts, without outer blanks: official files have both.

    Raises DataError naming `where` and the type found.
    """
    text = value[0] if isinstance(value, list) and value else value
    if not isinstance(text, str):
        raise DataError(
            f"{where} is {kind_of(text)}, expected text or a list of texts; mend the file"
        )
    return text.strip()


def fallback_id(task: str, index: int) -> str:
    """The id of an instance without one: the task's number and the place in its file."""
    return f"{task.partition('_')[0]}-{index}"


class OfficialLayout:
    """A folder with tasks/NAME.json and splits/default/{train,test}_tasks.txt.

    One task's file is in memory at a time.
    """

    def __init__(self, folder: Path, limits: Limits, problems: Problems) -> None:
        self._folder, self._limits, self._problems = folder, limits, problems
        self._name: str | None = None
        self._document: dict[str, Any] = {}

    def names(self, split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The tasks of a split, sorted: those on disk, and those listed but absent."""
        path = self._folder / "splits" / "default" / f"{split}_tasks.txt"
        lines = read_text(path, self._limits.table_bytes).splitlines()
        listed = sorted({line.strip() for line in lines if line.strip()})
        present = tuple(name for name in listed if self._path(name).is_file())
        absent = tuple(name for name in listed if not self._path(name).is_file())
        if not present:
            raise DataError(
                f"{path} lists {len(listed)} tasks, and none is in {self._folder / 'tasks'}; "
                "copy the task files there"
            )
        return present, absent

    def size(self, split: str, name: str) -> int:
        """Number of instances of a task."""
        return len(self._instances(name))

    def read(self, split: str, names: Iterable[str], pick: Pick) -> tuple[Task, ...]:
        """Read tasks, keeping the picked instances. `names` is consumed one by one."""
        tasks: list[Task] = []
        for name in names:
            with self._problems.gathered():
                tasks.append(self._read(name, pick))
        return tuple(tasks)

    def _read(self, name: str, pick: Pick) -> Task:
        path, instances = self._path(name), self._instances(name)
        kept = pick(name, len(instances))
        definition = first_text(self._document.get("Definition"), f"{path}: Definition")
        category = first_text(self._document.get("Categories"), f"{path}: Categories")
        examples: list[Example] = []
        for i in kept:
            with self._problems.gathered():
                examples.append(self._example(name, i, instances[i], definition, category))
        return Task(name, tuple(examples))

    def _example(
        self, name: str, index: int, instance: object, definition: str, category: str
    ) -> Example:
        where = f"{self._path(name)}: instance {index}"
        if not isinstance(instance, dict):
            raise DataError(f"{where} is {kind_of(instance)}, expected an object; mend it")
        text, output = instance.get("input"), instance.get("output")
        references = [output] if isinstance(output, str) else output
        if not isinstance(text, str):
            raise DataError(f"{where}: input is {kind_of(text)}, expected text; mend it")
        if (
            not isinstance(references, list)
            or not references
            or not all(isinstance(reference, str) for reference in references)
        ):
            told = shown(output) if isinstance(output, list) else kind_of(output)
            raise DataError(f"{where}: output is {told}, expected one or more texts; mend it")
        given = instance.get("id")
        known = given if isinstance(given, str) else fallback_id(name, index)
        self._limits.require_row(where, known, definition, text, references, category)
        require_characters(where, (known, definition, text, *references, category))
        return Example(known, definition, text, tuple(references), category)

    def _instances(self, name: str) -> list[object]:
        if self._name != name:
            self._document, self._name = _load_object(self._path(name), self._limits), name
        instances = self._document.get("Instances")
        if not isinstance(instances, list):
            raise DataError(
                f"{self._path(name)}: Instances is {kind_of(instances)}, expected a list; "
                "is this a task file of Super-NaturalInstructions?"
            )
        return instances

    def _path(self, name: str) -> Path:
        return self._folder / "tasks" / f"{name}.json"


def _load_object(path: Path, limits: Limits) -> dict[str, Any]:
    document = parsed_json(read_text(path, limits.table_bytes), path, "copy the file anew")
    if not isinstance(document, dict):
        raise DataError(f"{path} holds {kind_of(document)}, expected an object; mend it")
    return document
