"""The source "embedded": tasks made by code, nothing to download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from flexlora.errors import DataError
from flexlora.options import MANY, Option, require
from flexlora.partition.split import named_generator, sample
from flexlora.tasks.source import Corpus
from flexlora.tasks.task import Task

LONGEST = 5_000  # Examples of a task: seconds to make. Most tasks have no more distinct inputs.


@dataclass(frozen=True)
class Embedded:
    """Tasks of families that are made by code; the seed chooses which."""

    train_tasks: Annotated[
        int | None, Option("tasks that train; none: all", least=0, most=MANY)
    ] = None
    unseen_tasks: Annotated[
        int | None, Option("tasks kept unseen; none: all", least=1, most=MANY)
    ] = None
    examples_per_task: Annotated[
        int, Option("examples made of each task", least=1, most=LONGEST)
    ] = 100
    unseen_examples_per_task: Annotated[
        int | None,
        Option("examples made of each unseen task; none: as of the others", least=1, most=LONGEST),
    ] = None
    unseen: Annotated[
        Literal["fresh", "development"],
        Option(
            "families that are unseen: fresh (nothing was chosen on them; for the final measure) "
            "or development (for every choice before that)"
        ),
    ] = "fresh"
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, "data")

    def load(self) -> Corpus:
        """Make the tasks: a function of the options alone."""
        from flexlora.tasks import embedded

        kinds = {"fresh": embedded.FRESH_FAMILIES, "development": embedded.DEVELOPMENT_FAMILIES}
        each = self.examples_per_task
        each_unseen = self.unseen_examples_per_task or each
        train = embedded.embedded_tasks(embedded.TRAIN_FAMILIES, each, self.seed)
        unseen = embedded.embedded_tasks(kinds[self.unseen], each_unseen, self.seed)
        return Corpus.of(
            self._choose(train, self.train_tasks, "train_tasks"),
            self._choose(unseen, self.unseen_tasks, "unseen_tasks"),
        )

    def _choose(self, tasks: Sequence[Task], count: int | None, option: str) -> list[Task]:
        if count is not None and count > len(tasks):
            raise DataError(
                f"{option} is {count}, but there are {len(tasks)} such embedded tasks; "
                f"lower {option}"
            )
        if count == 0:
            return []
        by_name = sorted(tasks, key=lambda task: task.name)
        chosen = sample(len(by_name), named_generator(self.seed, option), limit=count)
        return [by_name[i] for i in chosen]
