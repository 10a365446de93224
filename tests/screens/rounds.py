"""Rounds whose changes are given points, to judge screens by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flexlora.adapters import Factors
from flexlora.rules import Contribution
from flexlora.screens import Products


def round_at(points: Tensor, weights: Sequence[float] = ()) -> Products:
    """Client k, "00", "01", …, changed its one layer by row k of (K, n) points, at rank 1."""
    shares = list(weights) or [1 / len(points)] * len(points)
    sent = Factors(torch.zeros(points.shape[1], 1), torch.ones(1, 1), 1.0)
    layer = [
        Contribution.of(f"{k:02}", share, Factors(point[:, None], sent.a, 1.0), sent=sent)
        for k, (point, share) in enumerate(zip(points.float(), shares, strict=True))
    ]
    given = {c.client: c.weight for c in layer}
    return Products(dict.fromkeys(given, 1), given, lambda: [layer])


def crowd(clients: int, *, seed: int, dimensions: int = 12) -> Tensor:
    """Honest changes: around one point of length 1, each 0.3 away from it."""
    draw = torch.Generator().manual_seed(seed)
    spread = torch.randn(clients, dimensions, generator=draw, dtype=torch.float64)
    spread = 0.3 * spread / spread.norm(dim=1, keepdim=True)
    return spread + torch.eye(dimensions, dtype=torch.float64)[0]
