"""Text tasks made by code: nothing to download, and every right answer is known.

A family is one file with the tasks of one kind. Families are split whole, in three:

- `TRAIN_FAMILIES`: their tasks are the clients of a federation;
- `DEVELOPMENT_FAMILIES`: used to choose the tasks, the committed base model and its settings;
- `FRESH_FAMILIES`: clients that nothing was chosen on, for the final measure of how well a model
  does on kinds of tasks it has never met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from flexlora.errors import DataError, nearest
from flexlora.tasks.embedded import (
    arithmetic,
    classification,
    comparison,
    counting,
    extraction,
    formatting,
    list_edit,
    list_filter,
    list_order,
    list_pick,
    lookup,
    rewriting,
    sequences,
    statements,
)
from flexlora.tasks.embedded.family import Family, TaskSpec, make_task
from flexlora.tasks.task import Task

__all__ = [
    "DEVELOPMENT_FAMILIES",
    "FAMILIES",
    "FRESH_FAMILIES",
    "TRAIN_FAMILIES",
    "Family",
    "TaskSpec",
    "embedded_tasks",
]

_TRAIN = (
    list_order,
    list_pick,
    list_filter,
    lookup,
    comparison,
    classification,
    rewriting,
    counting,
    extraction,
    arithmetic,
)
_DEVELOPMENT = (sequences, list_edit)
_FRESH = (statements, formatting)

TRAIN_FAMILIES: tuple[str, ...] = tuple(module.FAMILY.name for module in _TRAIN)
DEVELOPMENT_FAMILIES: tuple[str, ...] = tuple(module.FAMILY.name for module in _DEVELOPMENT)
FRESH_FAMILIES: tuple[str, ...] = tuple(module.FAMILY.name for module in _FRESH)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {module.FAMILY.name: module.FAMILY for module in (*_TRAIN, *_DEVELOPMENT, *_FRESH)}
)


def embedded_tasks(families: Sequence[str], examples: int, seed: int) -> tuple[Task, ...]:
    """Return all tasks of the named families, in the order named, `examples` examples each.

    A task depends on its own name, `examples` and `seed` alone: never on the other families, on
    their order, on the process or on a global generator. The inputs of a task are distinct, and
    every example has one non-empty reference.

    Raises:
        DataError: a family is unknown or named twice, `examples` is below 1, or a task has fewer
            distinct inputs than asked for (each has at least 400).
    """
    if examples < 1:
        raise DataError(f"examples is {examples}; ask for at least 1 per task")
    for name in families:
        if name not in FAMILIES:
            raise DataError(f"no embedded family '{name}'; {nearest(name, FAMILIES)}")
    if len(set(families)) < len(families):
        raise DataError(f"families {', '.join(families)}: one is named twice; name each once")
    return tuple(
        make_task(FAMILIES[name], spec, examples, seed)
        for name in families
        for spec in FAMILIES[name].tasks
    )
