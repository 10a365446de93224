"""From a source's tasks to clients' tasks: pooled and dealt anew by a scheme of `partition`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from flexlora.errors import ConfigError, DataError, nearest, shown
from flexlora.options import MANY, Option, require
from flexlora.partition.registry import SCHEMES, make_scheme
from flexlora.partition.split import named_generator
from flexlora.tasks.task import Example, Task

# What examples may be labelled by.
LABELS: Mapping[str, Callable[[Example], str]] = {
    "category": lambda example: example.category,
    "response": lambda example: example.references[0],
}
NO_LABEL = "(none)"  # how an empty label is shown


@dataclass(frozen=True)
class Partition:
    """How training examples become clients: the [partition] table of a config.

    by: a name of `partition.registry`; label: a name of `LABELS`, by which "dirichlet" deals and
    which reports count; options: the scheme's own (clients, alpha).
    Raises ConfigError for a name or an option that is unknown, missing or out of range.
    """

    by: str = "task"
    label: str = "category"
    min_examples: Annotated[
        int,
        Option(
            "examples that every client holds at least, before they are split", least=1, most=MANY
        ),
    ] = 1
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        require(self, "partition")
        make_scheme(self.by, dict(self.options))
        if self.label not in LABELS:
            raise ConfigError(
                f"partition.label is {shown(self.label)}; {nearest(self.label, LABELS)}"
            )

    @property
    def groups(self) -> str:
        """What the scheme deals by, see `partition.scheme.Scheme`."""
        return SCHEMES[self.by].groups

    def deal(self, tasks: Iterable[Task], seed: int) -> tuple[tuple[Task, ...], tuple[str, ...]]:
        """Deal the examples of these tasks: one task a client, and notes on what was done.

        Every example comes to exactly one client, in its old order there. What comes where depends
        on the seed, on the labels and on the order of tasks and examples, on nothing else.
        Raises DataError where the data does not allow this partition.
        """
        tasks = tuple(tasks)
        examples = [(task.name, example) for task in tasks for example in task.examples]
        labels = self._labels(examples)
        dealt = make_scheme(self.by, dict(self.options)).deal(
            labels, least=self.min_examples, generator=named_generator(seed, f"partition/{self.by}")
        )
        notes: tuple[str, ...] = ()
        if dealt.moved:
            notes = (
                f"{dealt.moved} examples were moved from the largest clients to those that had "
                f"drawn fewer than partition.min_examples = {self.min_examples}",
            )
        return (
            tuple(
                Task(name, tuple(examples[place][1] for place in places))
                for name, places in dealt.clients.items()
            ),
            notes,
        )

    def _labels(self, examples: Sequence[tuple[str, Example]]) -> list[str]:
        if self.groups in ("task", "client"):
            return [name for name, _ in examples]
        if not self.groups:
            return [""] * len(examples)
        name = self.label if self.groups == "label" else self.groups
        labels = [LABELS[name](example) for _, example in examples]
        if "" in labels:
            raise DataError(
                f"{labels.count('')} of {len(labels)} training examples have no {name}, by which "
                f"partition {self.by!r} deals; name its column in data.{name}, or choose another "
                "partition"
            )
        kinds = len(set(labels))
        if self.groups == "label" and 2 * kinds > len(labels) > 1:
            raise DataError(
                f"partition.label {name!r} has {kinds} values in {len(labels)} training examples; "
                "choose a label whose values come again and again"
            )
        return labels


def count_labels(label: str, examples: Iterable[Example]) -> dict[str, int]:
    """Label → how many of these examples have it, most frequent first, then by name."""
    counts = Counter(LABELS[label](example) or NO_LABEL for example in examples)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
