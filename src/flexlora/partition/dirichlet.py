"""Clients whose labels are skewed by a Dirichlet distribution, from one label each to IID."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flexlora.options import Option
from flexlora.partition.scheme import Clients, Dealt, Scheme, names, require_enough

LARGEST_ALPHA = 1e6  # beyond, the shares are equal to a thousandth and no partition changes


@final
@dataclass(frozen=True)
class Dirichlet(Scheme):
    """For each label, the shares that the clients get of it are drawn from Dirichlet(α, …, α).

    This is the convention "per label over clients" (Yurochkin et al. 2019, arXiv 1905.12022): all
    examples are dealt, each once, and sizes differ as well as labels. In the other one, "per client
    over labels" (Hsu et al. 2019, arXiv 1909.06335), clients of equal size draw until the labels
    run out, so the last clients' mixes are no longer what α says.

    Of a label's n examples, who is dealt which is random, and how many is share · n by largest
    remainder: within 1 of it. Small α gives few clients each label, large α gives all alike.
    Then, while a client has fewer than `least`, the smallest is given one random example of the
    largest. That ends, since there are enough, and leaves every other client as it was drawn;
    drawing anew until all are large enough would change the distribution, and need not end.
    """

    groups = "label"

    clients: Clients
    alpha: Annotated[
        float,
        Option(
            "α: how alike clients are; 0.1: most of a label at one or two of them, 100: nearly IID",
            above=0.0,
            most=LARGEST_ALPHA,
        ),
    ]

    def deal(self, labels: Sequence[str], *, least: int, generator: torch.Generator) -> Dealt:
        require_enough(len(labels), self.clients, least)
        kinds = sorted(set(labels))
        shares = dirichlet_shares(len(kinds), self.clients, self.alpha, generator)
        held: list[list[int]] = [[] for _ in range(self.clients)]
        where: dict[str, list[int]] = {kind: [] for kind in kinds}
        for place, label in enumerate(labels):
            where[label].append(place)
        for kind, row in zip(kinds, shares.tolist(), strict=True):
            found = where[kind]
            order = torch.randperm(len(found), generator=generator).tolist()
            start = 0
            for client, count in enumerate(largest_remainder(row, len(found))):
                held[client] += [found[i] for i in order[start : start + count]]
                start += count
        moved = _lift(held, least, generator)
        return Dealt(
            {n: tuple(sorted(h)) for n, h in zip(names(self.clients), held, strict=True)}, moved
        )


def dirichlet_shares(
    labels: int, clients: int, alpha: float, generator: torch.Generator
) -> Float[Tensor, "labels clients"]:
    """Independent draws from Dirichlet(α, …, α), one a label, as float64; rows sum to 1.

    Each share has mean 1/N and variance (1/N)(1 − 1/N)/(Nα + 1) with N clients. torch has no
    Dirichlet that takes a generator: numpy draws, seeded by one number from the generator (its
    method for small α works on beta variables, where gamma variables would all be rounded to 0).
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    drawn = np.random.default_rng(seed).dirichlet(np.full(clients, alpha), size=labels)
    return torch.from_numpy(drawn)


def largest_remainder(shares: Sequence[float], count: int) -> list[int]:
    """Whole numbers that sum to `count`, each within 1 of share · count; shares sum to 1.

    Equal remainders go to the place that comes first.
    """
    quotas = [share * count for share in shares]
    sizes = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda i: sizes[i] - quotas[i])
    for i in by_remainder[: count - sum(sizes)]:
        sizes[i] += 1
    return sizes


def _lift(held: list[list[int]], least: int, generator: torch.Generator) -> int:
    """Give from the largest to the smallest until each has `least`; returns how many moved."""
    moved = 0
    while len(min(held, key=len)) < least:
        largest = max(held, key=len)
        taken = int(torch.randint(len(largest), (), generator=generator))
        min(held, key=len).append(largest.pop(taken))
        moved += 1
    return moved
