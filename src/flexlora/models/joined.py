"""The frozen factors of many clients side by side, for a few rows of any of them.

Where a row is one token, as in generation, each client's own products are so small that their calls
cost more than the work. Joined, a layer is two products for all: every row through every client's
`a`, what is not its own set to zero, and through every client's `b`. The rows of a client whose `b`
is not finite are NaN, and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexlora.models.trainable import Pair


@dataclass(frozen=True, eq=False)
class Joined:
    """One layer: s is the sum of the clients' ranks. mine: which of them are a row's own."""

    a: Float[Tensor, "s n"]
    bt: Float[Tensor, "s m"]
    mine: Bool[Tensor, "rows s"]

    def add(self, out: Float[Tensor, "rows m"], inner: Float[Tensor, "rows n"]) -> None:
        """Add to every row what its own client's branch makes of it, in place."""
        middle = (inner @ self.a.T).masked_fill_(~self.mine, 0.0)
        out.addmm_(middle, self.bt)


class Joiner:
    """Joins those clients that have rows, layer by layer on first use.

    pairs: layer → every client's factors. What is joined is kept until a client comes that is not
    in it, or until half of its clients are gone: copying anew for each that leaves would not pay.
    """

    def __init__(self, pairs: Callable[[str], Sequence[Pair]]) -> None:
        self._pairs = pairs
        self._clients: list[int] = []
        self._shares: tuple[int, ...] = ()
        self._rows = torch.empty(0, dtype=torch.long)
        self._layers: dict[str, tuple[Tensor, Tensor, Int[Tensor, " s"]]] = {}

    def share(self, shares: tuple[int, ...]) -> None:
        """The next shares[k] rows are client k's."""
        if shares == self._shares:
            return
        self._shares = shares
        present = [k for k, share in enumerate(shares) if share]
        if not set(present) <= set(self._clients) or len(self._clients) > 2 * len(present):
            self._clients, self._layers = present, {}
        counts = torch.tensor(shares)
        self._rows = torch.arange(len(shares)).repeat_interleave(counts).to(self._rows.device)

    def join(self, layer: str) -> Joined:
        if layer not in self._layers:
            self._layers[layer] = self._copy(layer)
        a, bt, owners = self._layers[layer]
        self._rows = self._rows.to(a.device)
        return Joined(a, bt, self._rows[:, None] == owners)

    def _copy(self, layer: str) -> tuple[Tensor, Tensor, Tensor]:
        pairs = self._pairs(layer)
        downs, ups, owners = [], [], []
        for k in self._clients:
            pair = pairs[k]
            parts = [(pair.a[: pair.rank], pair.bt[: pair.rank] * pair.scale)]
            parts += [(pair.origin[0], pair.origin[1] * -pair.scale)] if pair.origin else []
            for a, bt in parts:
                downs.append(a)
                ups.append(bt)
                owners += [k] * len(a)
        joined = torch.cat(ups)
        if not bool(joined.isfinite().all()):
            # Zero times what is not finite is not zero: other clients' rows would be NaN.
            for at, bt in enumerate(ups):
                if not bool(bt.isfinite().all()):
                    downs[at] = torch.full_like(downs[at], torch.nan)
                    ups[at] = torch.zeros_like(bt)
            joined = torch.cat(ups)
        device = pairs[0].a.device
        return torch.cat(downs), joined, torch.tensor(owners, device=device)
