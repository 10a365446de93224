"""Independent and identically distributed clients: the null case of every comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from flexlora.partition.scheme import Clients, Dealt, Scheme, names, require_enough


@final
@dataclass(frozen=True)
class IID(Scheme):
    """Examples dealt at random to `clients` clients whose sizes differ by at most one."""

    groups = ""

    clients: Clients

    def deal(self, labels: Sequence[str], *, least: int, generator: torch.Generator) -> Dealt:
        require_enough(len(labels), self.clients, least)
        order = torch.randperm(len(labels), generator=generator).tolist()
        return Dealt(
            {
                name: tuple(sorted(order[start :: self.clients]))
                for start, name in enumerate(names(self.clients))
            }
        )
