"""Which clients take part in a round."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from flexlora.errors import ConfigError


def clients_per_round(
    amount: int | float, clients: int, key: str = "federation.clients_per_round"
) -> int:
    """A count as it is, or a fraction in (0, 1] of all clients, rounded down (5 % of 1,613 is the
    paper's 80), at least 1.

    Raises ConfigError, naming the config's `key`, for more clients than there are.
    """
    if isinstance(amount, float):
        return max(1, math.floor(round(amount * clients, 9)))  # 0.29 · 100 is 28.999…
    if amount > clients:
        raise ConfigError(
            f"{key} is {amount} but there are {clients} clients; lower it or give a fraction"
        )
    return amount


def sample(clients: Sequence[str], count: int, generator: torch.Generator) -> list[str]:
    """`count` different clients, uniformly, in order of id."""
    order = sorted(clients)
    chosen = torch.randperm(len(order), generator=generator)[:count]
    return sorted(order[i] for i in chosen.tolist())
