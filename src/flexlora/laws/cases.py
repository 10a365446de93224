"""The federations that the laws are tried on: small, mixed in rank, scale and weight, and fixed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import final

import torch
from torch import Tensor

from flexlora.adapters import Factors
from flexlora.laws.aggregator import Aggregator, Make, Sent, ask

# Of every federation beside the senders, of full rank. The one sends in the first of two rounds
# alone, and is handed all there is; the other sends nothing more either, but where a law says so.
WATCHER, ABSENT = "yan", "zoe"
_SCALES = (2.0, 0.5, 1.5, 0.25, 1.0)
_WEIGHTS = (3.0, 1.0, 2.0, 5.0)


@final
@dataclass(frozen=True)
class Case:
    """One layer of m outputs and n inputs, and the ranks of those who send.

    later: the laws are tried in the second round, in which clients go on from what they got back
    in the first; else in the first. mixed: else all are of rank 2. All numbers are drawn from
    `seed`, in float32.
    """

    m: int
    n: int
    senders: Mapping[str, int]
    seed: int
    later: bool = False
    mixed: bool = True

    @property
    def ranks(self) -> dict[str, int]:
        """Of the whole federation."""
        ranks = {**self.senders, WATCHER: self.full, ABSENT: self.full}
        return ranks if self.mixed else dict.fromkeys(ranks, 2)

    @property
    def full(self) -> int:
        """min(m, n): no matrix of this shape has a higher rank."""
        return min(self.m, self.n)

    def gaussian(self, name: str, *shape: int) -> Tensor:
        """Numbers of this name, the same each time."""
        seed = 1_000_003 * self.seed + sum(place * ord(x) for place, x in enumerate(name, start=1))
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    def mixing(self, name: str, rank: int) -> Tensor:
        """An invertible (rank, rank) in float64, well conditioned: I plus a third of noise."""
        noise = self.gaussian(f"{name}'s mixing", rank, rank).double()
        return torch.eye(rank, dtype=torch.float64) + noise * (0.3 / math.sqrt(rank))

    def scale(self, client: str) -> float:
        return _SCALES[(self._place(client) + self.seed) % len(_SCALES)]

    def weight(self, client: str) -> float:
        return _WEIGHTS[(self._place(client) + self.seed) % len(_WEIGHTS)]

    def sent(self, client: str, rank: int) -> Sent:
        """What it sends in the first round, whatever it was handed."""
        b, a = (
            self.gaussian(f"{client}'s b", self.m, rank),
            self.gaussian(f"{client}'s a", rank, self.n),
        )
        return Sent(client, b, a, self.scale(client), self.weight(client))

    def moved(self, client: str, handed: Factors) -> Sent:
        """What it sends in the second round: what it was handed, trained on."""
        m, r, n = self.m, handed.rank, self.n
        b = handed.b.float() + 0.3 * self.gaussian(f"{client}'s step of b", m, r)
        a = handed.a.float() + 0.3 * self.gaussian(f"{client}'s step of a", r, n)
        return Sent(client, b, a, handed.scale, self.weight(client))

    def begun(self, make: Make, clients: Sequence[str] = ()) -> tuple[Aggregator, list[Sent]]:
        """A new aggregator before the round of the laws, and what is sent in it.

        clients: who sends, if not all of `senders`; in the first of two rounds everybody does.
        """
        aggregator, ranks = make(), self.ranks
        chosen = clients or list(self.senders)
        if not self.later:
            return aggregator, [self.sent(client, ranks[client]) for client in chosen]
        first = [self.sent(client, rank) for client, rank in ranks.items()]
        handed = ask(aggregator, first, ranks)
        return aggregator, [self.moved(client, handed[client]) for client in chosen]

    def _place(self, client: str) -> int:
        return list(self.ranks).index(client)


_SHAPES: tuple[tuple[int, int, dict[str, int]], ...] = (
    (4, 4, {"ann": 1, "bob": 2, "cyd": 3}),
    (12, 14, {"ann": 2, "bob": 3, "cyd": 5, "dan": 8}),
    (20, 10, {"ann": 6, "bob": 2, "cyd": 2, "dan": 4}),
)
CASES: tuple[Case, ...] = tuple(
    Case(m, n, senders, seed, later)
    for later, (seed, (m, n, senders)) in product((False, True), enumerate(_SHAPES))
)
"""The smallest first: what fails there is told."""
