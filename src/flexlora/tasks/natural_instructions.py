"""The source "natural_instructions": Super-NaturalInstructions from a folder, in either layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Protocol

import torch

from flexlora.errors import DataError
from flexlora.options import MANY, Option, require
from flexlora.partition.split import named_generator, sample
from flexlora.tasks.files import place_of
from flexlora.tasks.limits import ROW_CHARACTERS, TABLE_GB, Limits, MaxRowCharacters, MaxTableGb
from flexlora.tasks.official_layout import OfficialLayout, Pick
from flexlora.tasks.parquet_layout import ParquetLayout
from flexlora.tasks.problems import Problems
from flexlora.tasks.source import Corpus, LeastExamples, Share
from flexlora.tasks.task import Task


class Layout(Protocol):
    """How tasks lie on disk. `split` is "train" or "test"."""

    def names(self, split: str) -> tuple[tuple[str, ...], tuple[str, ...]]: ...
    def size(self, split: str, name: str) -> int: ...
    def read(self, split: str, names: Iterable[str], pick: Pick) -> tuple[Task, ...]: ...


@dataclass(frozen=True)
class NaturalInstructions:
    """Tasks of the official splits; the layout is found by what the folder holds.

    Of a split of which 0 tasks are wanted, nothing is read. Tasks are chosen by `seed` from their
    sorted names, examples by (seed, task) alone. Where min_examples is 0, an empty task is an
    error. max_table_gb holds of each file of text, and of each row group of a parquet file.
    """

    path: Annotated[str, Option("folder, of the official repository or in parquet")]
    train_tasks: Annotated[
        int | None, Option("tasks of the official training split; none: all", least=0, most=MANY)
    ] = None
    unseen_tasks: Annotated[
        int | None, Option("tasks of the official test split; none: all", least=0, most=MANY)
    ] = None
    examples_per_task: Annotated[
        int | None, Option("examples a task; none: all", least=1, most=MANY)
    ] = None
    unseen_examples_per_task: Annotated[
        int | None, Option("examples an unseen task; none: all", least=1, most=MANY)
    ] = None
    share: Share = None
    min_examples: LeastExamples = 0
    max_row_characters: MaxRowCharacters = ROW_CHARACTERS
    max_table_gb: MaxTableGb = TABLE_GB
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, "data")

    def load(self) -> Corpus:
        """Read the folder. Raises DataError for anything missing, broken, foreign or empty.

        All problems of the tasks that are wanted are told together, as `Problems` tells them: of a
        task, or of an example of one, the first.
        """
        limits = Limits.of(self.max_row_characters, self.max_table_gb)
        problems = Problems(self.path)
        layout = detect(place_of(self.path), limits, problems)
        notes: list[str] = []
        train: list[Task] = []
        unseen: list[Task] = []
        for split, tasks, option in (
            ("train", train, "train_tasks"),
            ("test", unseen, "unseen_tasks"),
        ):
            with problems.gathered():
                tasks += self._choose(layout, split, option, notes, problems)
        problems.require_none()
        return Corpus.of(train, unseen, notes)

    def _choose(
        self, layout: Layout, split: str, option: str, notes: list[str], problems: Problems
    ) -> list[Task]:
        count: int | None = getattr(self, option)
        if count == 0:
            return []
        names, absent = layout.names(split)
        if absent:
            listed = len(names) + len(absent)
            notes.append(
                f"{len(absent)} of the {listed} tasks listed in the {split} split are not on disk "
                f"(such as {absent[0]})"
            )
        order = torch.randperm(len(names), generator=named_generator(self.seed, split)).tolist()
        small: list[str] = []
        large: list[str] = []

        def large_enough() -> Iterator[str]:
            for name in (names[i] for i in order):
                size = None
                with problems.gathered():
                    size = layout.size(split, name)
                if size is not None and size < self.min_examples:
                    small.append(name)
                    continue
                large.append(name)  # A broken one too, whose problem is told: it is there.
                if size is not None:
                    yield name

        def pick(name: str, size: int) -> tuple[int, ...]:
            if size == 0:
                raise DataError(
                    f"{self.path}: task {name!r} has no examples; set min_examples = 1 to leave "
                    "such tasks out, or copy the file anew"
                )
            limit = self.examples_per_task if split == "train" else self.unseen_examples_per_task
            generator = named_generator(self.seed, name)
            return sample(size, generator, share=self.share, limit=limit)

        tasks = layout.read(split, islice(large_enough(), count), pick)
        if len(large) < (1 if count is None else count):
            least = f" of at least {self.min_examples} examples" if self.min_examples else ""
            or_least = " or min_examples" if self.min_examples else ""
            raise DataError(
                f"{option} is {'all' if count is None else count}, but {self.path} holds "
                f"{len(large)} {split} tasks{least}; lower {option}{or_least}"
            )
        if small:
            notes.append(
                f"{len(small)} {split} tasks with fewer than {self.min_examples} examples were "
                f"left out (such as {small[0]})"
            )
        return sorted(tasks, key=lambda task: task.name)


def detect(folder: Path, limits: Limits, problems: Problems) -> Layout:
    """Find the layout of a folder. Raises DataError naming the folder and what was looked for.

    problems: what the layout adds the faults of single tasks and examples to.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; set path to one with Natural Instructions")
    if (folder / "train.parquet").is_file() or (folder / "test.parquet").is_file():
        return ParquetLayout(folder, limits, problems)
    if (folder / "tasks").is_dir() and (folder / "splits" / "default").is_dir():
        return OfficialLayout(folder, limits, problems)
    raise DataError(
        f"{folder} holds no Natural Instructions: looked for tasks/*.json with "
        "splits/default/{train,test}_tasks.txt (the official repository), and for "
        "{train,test}.parquet with tasks.jsonl; set path to such a folder"
    )
