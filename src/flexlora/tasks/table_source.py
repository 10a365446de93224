"""What all sources of tables share: options, what is kept apart to score on, how rows are tasks."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

from flexlora.errors import ConfigError, DataError
from flexlora.options import MANY, Option, require
from flexlora.partition.split import named_generator, sample
from flexlora.tasks.columns import Columns, Record
from flexlora.tasks.limits import (
    ROW_CHARACTERS,
    TABLE_GB,
    Limits,
    MaxRowCharacters,
    MaxTableGb,
)
from flexlora.tasks.rows import Rows, overlap
from flexlora.tasks.source import Corpus, LeastExamples, Share
from flexlora.tasks.task import Example, Task

KEPT = "test/"  # what tasks that are kept apart are named by

Prompt = Annotated[
    str | tuple[str, ...],
    Option("columns of the prompt: the first is the instruction, the others its input"),
]
Response = Annotated[str, Option("column of the response: a text, or a list of accepted texts")]
Category = Annotated[str, Option("column of the row's category")]


@dataclass(frozen=True)
class TableSource(abc.ABC):
    """A source whose data are rows. A subclass says how they are read.

    prompt … id: the columns, see `columns.Columns`.
    Rows with the same client are one task; without a client column, those of the same category;
    without that either, all.
    What nobody trains on is one of: test_path, another table with the same columns, its rows
    grouped as above; test_share, this share of every category (at least one row of two or more),
    one task for each category; unseen_tasks, so many whole tasks, chosen by `seed`. Without any of
    them nothing is kept apart. The first two name their tasks "test/CLIENT" or "test/CATEGORY",
    since rows of that name may train. Rows that say the same twice are two examples.
    Tasks that `min_examples` leaves out are noted.
    """

    # Options that name a whole other table to be kept unseen.
    ways: ClassVar[tuple[str, ...]] = ("test_path",)
    extra: ClassVar[str] = ""  # What brings the library that reads it.

    path: Annotated[str, Option("file or folder, or a dataset's name")]
    prompt: Prompt = ()
    messages: Annotated[
        str, Option("column with a chat, also ShareGPT's, instead of prompt and response columns")
    ] = ""
    response: Response = ""
    choices: Annotated[str, Option("column with the answers of multiple choice")] = ""
    client: Annotated[str, Option("column that says whose a row is")] = ""
    type: Annotated[str, Option("column of the type of the row's client, a name or its rank")] = ""
    category: Category = ""
    id: Annotated[str, Option("column of the row's id; none: its place")] = ""
    alike: Annotated[
        Literal["refuse", "keep"],
        Option("client or category names that differ by blanks, marks or capitals alone"),
    ] = "refuse"
    examples: Annotated[
        int | None, Option("rows used in all, chosen by the seed; none: all", least=1, most=MANY)
    ] = None
    test_path: Annotated[str, Option("file or folder with rows that are kept unseen")] = ""
    test_share: Annotated[
        float | None,
        Option(
            "share of every category that the server keeps unseen, before the partition",
            above=0.0,
            below=1.0,
        ),
    ] = None
    unseen_tasks: Annotated[
        int | None,
        Option("whole tasks that are kept unseen, chosen by the seed", least=1, most=MANY),
    ] = None
    unseen_examples_per_task: Annotated[
        int | None, Option("examples an unseen task; none: all", least=1, most=MANY)
    ] = None
    train_tasks: Annotated[
        int | None, Option("tasks that train; none: all", least=0, most=MANY)
    ] = None
    examples_per_task: Annotated[
        int | None, Option("examples a task; none: all", least=1, most=MANY)
    ] = None
    share: Share = None
    min_examples: LeastExamples = 0
    max_row_characters: MaxRowCharacters = ROW_CHARACTERS
    max_table_gb: MaxTableGb = TABLE_GB
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, "data")
        columns = (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)
        object.__setattr__(self, "prompt", tuple(name for name in columns if name))
        self._columns()
        ways = (*self.ways, "test_share", "unseen_tasks")
        given = [f"data.{way}" for way in ways if getattr(self, way)]
        if len(given) > 1:
            raise ConfigError(
                f"{' and '.join(given)} both say what is kept unseen; give one of them"
            )

    @abc.abstractmethod
    def rows(self, path: str, *, test: bool) -> Rows:
        """Read the table at this path: what trains, or (`test`) the one that is kept unseen.

        Raises DataError for what is missing, broken or foreign.
        """

    @final
    def load(self) -> Corpus:
        """Read, check, keep apart, choose. The same file and options give the same corpus."""
        notes: list[str] = []
        unseen: list[Task] = []
        rest: list[Record] = []
        other_table = any(getattr(self, way) for way in self.ways)
        trained: tuple[str, ...] = ()
        if not (self.train_tasks == 0 and other_table):
            table = self.rows(self.path, test=False)
            rest, trained = self._read(table, notes), table.parts
        if other_table:
            table = self.rows(self.test_path or self.path, test=True)
            both = [part for part in table.parts if any(overlap(part, x) for x in trained)]
            if both:
                raise DataError(
                    f"{both[0]} is both what trains and what is kept unseen; name another one, or "
                    "set data.test_share instead"
                )
            unseen = [
                Task(KEPT + task.name, task.examples)
                for task in self._tasks(self._columns().read(table))
            ]
        elif self.test_share is not None:
            unseen, rest = self._keep_apart(rest, self.test_share)
        tasks = self._large_enough(self._tasks(rest), notes)
        if self.unseen_tasks is not None:
            unseen = self._some(tasks, self.unseen_tasks, "unseen_tasks")
            chosen = {task.name for task in unseen}
            tasks = [task for task in tasks if task.name not in chosen]
        if self.train_tasks is not None:
            tasks = self._some(tasks, self.train_tasks, "train_tasks")
        elif not tasks:
            raise DataError(f"no row of {self.path} is left to train on; keep fewer apart")
        return Corpus.of(
            self._limited(tasks, self.examples_per_task),
            self._limited(unseen, self.unseen_examples_per_task),
            notes,
        )

    @property
    def limits(self) -> Limits:
        return Limits.of(self.max_row_characters, self.max_table_gb)

    @final
    def named_columns(self) -> set[str]:
        """All columns that the options name."""
        return set(self._columns().named)

    def _columns(self) -> Columns:
        assert isinstance(self.prompt, tuple)
        return Columns(
            self.prompt,
            self.messages,
            self.response,
            self.choices,
            self.client,
            self.type,
            self.category,
            self.id,
            limits=self.limits,
            alike_kept=self.alike == "keep",
        )

    def _read(self, table: Rows, notes: list[str]) -> list[Record]:
        records = self._columns().read(table)
        if self.examples is None:
            return records
        if self.examples < len(records):
            notes.append(
                f"{self.examples:,} of the {len(records):,} rows of {table.where} were chosen"
            )
        chosen = sample(len(records), named_generator(self.seed, "rows"), limit=self.examples)
        return [records[i] for i in chosen]

    def _keep_apart(
        self, records: Sequence[Record], share: float
    ) -> tuple[list[Task], list[Record]]:
        kept: dict[str, list[Example]] = {}
        places: dict[str, list[int]] = {}
        for place, record in enumerate(records):
            places.setdefault(record.example.category, []).append(place)
        apart: set[int] = set()
        for category in sorted(places):
            found = places[category]
            if len(found) < 2:
                continue  # it could not be in both parts
            generator = named_generator(self.seed, f"test/{category}")
            limit = len(found) - 1
            chosen = [found[i] for i in sample(len(found), generator, share=share, limit=limit)]
            apart.update(chosen)
            name = f"{KEPT}{category or 'all'}"
            kept[name] = [records[place].example for place in chosen]
        tasks = [Task(name, tuple(examples)) for name, examples in kept.items()]
        return tasks, [record for place, record in enumerate(records) if place not in apart]

    def _tasks(self, records: Iterable[Record]) -> list[Task]:
        """By client, else by category; sorted by name, rows in order."""
        groups: dict[str, list[Example]] = {}
        for record in records:
            name = record.client if self.client else record.example.category or "all"
            groups.setdefault(name, []).append(record.example)
        return [Task(name, tuple(groups[name])) for name in sorted(groups)]

    def _large_enough(self, tasks: Sequence[Task], notes: list[str]) -> list[Task]:
        large = [task for task in tasks if len(task.examples) >= self.min_examples]
        small = [task.name for task in tasks if len(task.examples) < self.min_examples]
        if small:
            notes.append(
                f"{len(small)} tasks with fewer than {self.min_examples} examples were left out "
                f"(such as {small[0]})"
            )
        return large

    def _some(self, tasks: Sequence[Task], count: int, option: str) -> list[Task]:
        if count > len(tasks):
            least = f" of at least {self.min_examples} examples" if self.min_examples else ""
            raise DataError(
                f"{option} is {count}, but {self.path} holds {len(tasks)} tasks{least}; "
                f"lower {option}"
            )
        if count == 0:
            return []
        chosen = sample(len(tasks), named_generator(self.seed, option), limit=count)
        return [tasks[i] for i in chosen]

    def _limited(self, tasks: Iterable[Task], limit: int | None) -> list[Task]:
        limited = []
        for task in tasks:
            generator = named_generator(self.seed, task.name)
            chosen = sample(len(task.examples), generator, share=self.share, limit=limit)
            limited.append(Task(task.name, tuple(task.examples[i] for i in chosen)))
        return limited
