"""Which clients take part in a round."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def sample(clients: Sequence[str], count: int, generator: torch.Generator) -> list[str]:
    """`count` different clients, uniformly, in order of id."""
    order = sorted(clients)
    chosen = torch.randperm(len(order), generator=generator)[:count]
    return sorted(order[i] for i in chosen.tolist())
