"""The seam of partitions: a scheme deals examples, known by their labels alone, to clients."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from flexlora.errors import DataError
from flexlora.options import MANY, Option, require
from flexlora.partition.split import Indices


@dataclass(frozen=True)
class Dealt:
    """Client name → the places of its examples, ascending. Every place is with one client.

    moved: how many examples changed hands after the draw, so that no client has too few.
    """

    clients: Mapping[str, Indices]
    moved: int = 0


Clients = Annotated[int, Option("clients to deal to", least=1, most=MANY)]


class Scheme(abc.ABC):
    """How examples become clients. A subclass is a frozen dataclass whose fields are its options.

    Each field says its type, range and meaning (`options.Option`), and is held to them.

    `groups` (class constant): what `deal` is given as labels: "task" (names of the source's own
    tasks), "client" (the same, where a column of the data says so), "category", "label" (whichever
    the user chooses), or "" where labels do not matter.
    """

    groups: ClassVar[str]

    def __post_init__(self) -> None:
        require(self, "partition")

    @abc.abstractmethod
    def deal(self, labels: Sequence[str], *, least: int, generator: torch.Generator) -> Dealt:
        """Deal `len(labels)` examples, the i-th of which has label `labels[i]`.

        Guarantees that every example is with exactly one client and that each client has `least`
        (≥ 1) or more. What is dealt depends on the labels in their order and on the generator.
        Raises DataError where that cannot be reached.
        """


def names(clients: int) -> list[str]:
    """client-00, client-01, …: names that sort in order, whatever their number."""
    digits = max(2, len(str(clients - 1)))
    return [f"client-{index:0{digits}d}" for index in range(clients)]


def require_enough(examples: int, clients: int, least: int) -> None:
    """Raise DataError where `clients` clients cannot have `least` examples each."""
    if clients * least <= examples:
        return
    each = "an example" if least == 1 else f"{least} examples"
    reach = [f"partition.clients to {examples // least} or less"] if examples >= least else []
    if examples >= clients:
        reach.append(f"partition.min_examples to {examples // clients} or less")
    raise DataError(
        f"{clients} clients with {each} or more each are asked for, but there are {examples} "
        f"training examples; lower {' or '.join(reach) or 'both, or give more data'}"
    )
