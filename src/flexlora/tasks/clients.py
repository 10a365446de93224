"""From tasks to clients: one task is one client, its examples chosen and split by its name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from flexlora.errors import DataError
from flexlora.partition.split import named_generator, sample, split
from flexlora.tasks.task import Example, Task

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Client:
    """One client's data. A group of unseen examples is one that has only `test` examples."""

    id: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]

    def task(self, part: Part) -> Task:
        """One part as a task named by the client's id, as `encode_tasks` takes it."""
        return Task(self.id, getattr(self, part))


def as_clients(
    tasks: Iterable[Task],
    *,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    share: float | None = None,
    limit: int | None = None,
    seed: int,
    unseen: bool = False,
) -> tuple[Client, ...]:
    """Turn each task into a client that holds a sample of its examples, split into three parts.

    share, limit: see `partition.split.sample` (share 0.1 is the paper's "10 % of each task").
    shares: see `partition.split.split`; of `unseen` tasks all sampled examples go to `test`.
    What a client holds depends on (seed, its name, its examples) alone, not on the other tasks.

    Every client that is not `unseen` has a training example, since `split` gives that part the
    first one. Raises DataError naming the task for one without examples or whose name comes twice;
    ValueError as `sample` and `split` do.
    """
    clients: dict[str, Client] = {}
    for task in tasks:
        if task.name in clients:
            raise DataError(f"task {task.name!r} comes twice; give each task its own name")
        if not task.examples:
            raise DataError(f"task {task.name!r} has no examples; leave it out or give it some")
        generator = named_generator(seed, task.name)
        chosen = [
            task.examples[i]
            for i in sample(len(task.examples), generator, share=share, limit=limit)
        ]
        if unseen:
            parts: tuple[tuple[Example, ...], ...] = ((), (), tuple(chosen))
        else:
            indices = split(len(chosen), shares, generator=generator)
            parts = tuple(tuple(chosen[i] for i in part) for part in indices)
        clients[task.name] = Client(task.name, *parts)
    return tuple(clients.values())
