"""One client per label, or several where a label is large: by client, by task, by category."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, final

import torch

from flexlora.errors import DataError
from flexlora.options import MANY, Option
from flexlora.partition.scheme import Dealt, Scheme
from flexlora.partition.split import Indices


@final
@dataclass(frozen=True)
class ByTask(Scheme):
    """One client per task of the source."""

    groups = "task"

    def deal(self, labels: Sequence[str], *, least: int, generator: torch.Generator) -> Dealt:
        return _dealt(_places(labels), least, _LEAVE)


@final
@dataclass(frozen=True)
class ByClient(Scheme):
    """One client per value of the data's client column."""

    groups = "client"

    def deal(self, labels: Sequence[str], *, least: int, generator: torch.Generator) -> Dealt:
        return _dealt(_places(labels), least, _LEAVE)


@final
@dataclass(frozen=True)
class ByCategory(Scheme):
    """One client per category, or `clients` in all, each of which holds one category alone.

    The additional clients go to the categories that would else have the largest ones, one by one
    (Adams' method: no other choice makes the largest client smaller). A category's examples are
    cut at random into parts whose sizes differ by at most one, named "CATEGORY-1", "CATEGORY-2" …
    """

    groups = "category"

    clients: Annotated[
        int | None,
        Option(
            "large categories are cut until there are so many; none: one each", least=1, most=MANY
        ),
    ] = None

    def deal(self, labels: Sequence[str], *, least: int, generator: torch.Generator) -> Dealt:
        places = _places(labels)
        if self.clients is None:
            return _dealt(places, least, _LEAVE)
        if self.clients < len(places):
            raise DataError(
                f"partition.clients is {self.clients}, but there are {len(places)} categories, and "
                f"a client holds one; give {len(places)} or more, leave partition.clients out, or "
                "set partition.by to 'iid' or 'dirichlet'"
            )
        if self.clients > len(labels):
            raise DataError(
                f"partition.clients is {self.clients}, but there are {len(labels)} training "
                "examples; lower it"
            )
        parts = seats({label: len(found) for label, found in places.items()}, self.clients)
        dealt: dict[str, Indices] = {}
        for label, found in places.items():
            count = parts[label]
            order = torch.randperm(len(found), generator=generator).tolist()
            digits = len(str(count))
            for part in range(count):
                name = label if count == 1 else f"{label}-{part + 1:0{digits}d}"
                if name in dealt or (count > 1 and name in places):
                    raise DataError(
                        f"category {label!r} is cut into {count} clients, of which one would have "
                        f"the name of another, {name!r}; rename that category"
                    )
                dealt[name] = tuple(sorted(found[i] for i in order[part::count]))
        return _dealt(dealt, least, "or partition.clients")


def seats(sizes: Mapping[str, int], clients: int) -> dict[str, int]:
    """Label → its number of clients: one each, the others by Adams' method; sums to `clients`.

    Equal sizes go to the label that comes first. No label gets more clients than examples, as long
    as clients ≤ the sum of sizes. Raises ValueError for fewer clients than labels.
    """
    if clients < len(sizes):
        raise ValueError(f"{clients} clients for {len(sizes)} labels; give one each or more")
    count = dict.fromkeys(sizes, 1)
    heap = [(-float(size), place, label) for place, (label, size) in enumerate(sizes.items())]
    heapq.heapify(heap)
    for _ in range(clients - len(sizes)):
        _, place, label = heap[0]
        count[label] += 1
        heapq.heapreplace(heap, (-sizes[label] / count[label], place, label))
    return count


_LEAVE = "or leave their examples out of the data"


def _places(labels: Sequence[str]) -> dict[str, Indices]:
    places: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    return {label: tuple(places[label]) for label in sorted(places)}


def _dealt(clients: Mapping[str, Indices], least: int, cure: str) -> Dealt:
    small = Counter({name: len(held) for name, held in clients.items() if len(held) < least})
    if small:
        name, size = small.most_common()[-1]
        raise DataError(
            f"{len(small)} of {len(clients)} clients have fewer than partition.min_examples = "
            f"{least} examples (client {name!r} has {size}); lower partition.min_examples {cure}"
        )
    return Dealt(clients)
