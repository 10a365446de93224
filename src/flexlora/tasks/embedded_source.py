"""The source "embedded": tasks made by code, nothing to download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexlora.errors import ConfigError, DataError
from flexlora.partition.split import named_generator, sample
from flexlora.tasks.source import Corpus
from flexlora.tasks.task import Task


@dataclass(frozen=True)
class Embedded:
    """Options of the source.

    train_tasks, unseen_tasks: how many tasks of the training and of the unseen families, chosen by
    `seed`; None is all.
    examples_per_task, unseen_examples_per_task: how many examples to make of each; the latter is as
    the former where it is None.
    unseen: which families are the unseen clients: "fresh" (nothing was chosen on them; for the
    final measure) or "development" (for every choice before that).
    """

    train_tasks: int | None = None
    unseen_tasks: int | None = None
    examples_per_task: int = 100
    unseen_examples_per_task: int | None = None
    unseen: str = "fresh"
    seed: int = 0

    def __post_init__(self) -> None:
        names = ("train_tasks", "unseen_tasks", "examples_per_task", "unseen_examples_per_task")
        for name in names:
            value = getattr(self, name)
            least = 0 if name == "train_tasks" else 1
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; give {least} or more, or leave it out")
        if self.unseen not in ("fresh", "development"):
            raise ConfigError(f"unseen is {self.unseen!r}; give 'fresh' or 'development'")

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
