"""What the rules share that keep one large adapter, of which each client trains some rows.

All of it is at one scale, that of the highest rank: a row means the same whoever trains it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from flexlora.adapters import Factors
from flexlora.lowrank import LowRank
from flexlora.rules.contributions import Contributions
from flexlora.rules.layer import Layer, LayerState


@dataclass(frozen=True, eq=False)
class RowSums:
    """Σ w_k [B_k 0] and Σ w_k [A_k; 0] in float32, each row over the clients that own it.

    shares: (R,), the owners' weights of each row, summed; owned: rows that any client owns.
    """

    b: Tensor
    a: Tensor
    shares: Tensor
    owned: int

    def padded(self, state: LayerState) -> LayerState:
        """The sums themselves; rows that nobody owns stay as the state has them."""
        b, a = state["b"].clone(), state["a"].clone()
        b[:, : self.owned], a[: self.owned] = self.b[:, : self.owned], self.a[: self.owned]
        return {"b": b, "a": a}

    def mean(self, state: LayerState) -> LayerState:
        """Every row over its owners' weights; rows without any stay as the state has them."""
        there = self.shares > 0.0
        shares = torch.where(there, self.shares, 1.0).float()
        return {
            **state,
            "b": torch.where(there, self.b / shares, state["b"]),
            "a": torch.where(there[:, None], self.a / shares[:, None], state["a"]),
        }


def row_sums(
    contributions: Contributions, rank: int, least: int = 0, scaled: bool = False
) -> RowSums:
    """Of the clients that own at least `least` rows, padded with zeros to `rank` rows.

    scaled: each client's scale multiplied into its b, where scales differ.
    """
    m, n = contributions.shape
    b, a = torch.zeros(m, rank), torch.zeros(rank, n)
    shares, owned = torch.zeros(rank, dtype=torch.float64), 0
    for c in contributions.each():
        if c.rank < least or c.weight == 0.0:  # What weighs nothing owns nothing.
            continue
        trained = c.trained
        b[:, : c.rank] += c.weight * (trained.scale if scaled else 1.0) * trained.b.float()
        a[: c.rank] += c.weight * trained.a.float()
        shares[: c.rank] += c.weight
        owned = max(owned, c.rank)
    return RowSums(b, a, shares, owned)


def first_rows(whole: Factors, rank: int) -> Factors:
    """The first directions, exactly `rank` of them: zeros where it has fewer.

    The methods' own cut, not the best approximation.
    """
    kept = whole.cut(rank)
    (m, n), pad = whole.shape, rank - kept.rank
    b = torch.cat([kept.b, kept.b.new_zeros(m, pad)], dim=1)
    return Factors(b, torch.cat([kept.a, kept.a.new_zeros(pad, n)]), whole.scale)


def rows_of(whole: Factors, rows: Tensor, scale: float) -> Factors:
    """These directions alone, at this scale."""
    return Factors(whole.b[:, rows], whole.a[rows], scale)


def stepped(before: Factors, after: Factors) -> LowRank:
    """after − before, as wide as columns of b and rows of a that moved, at their one scale."""
    moved_b, moved_a = after.b - before.b, after.a - before.a
    columns, rows = moved_b.any(dim=0), moved_a.any(dim=1)
    left = torch.cat([moved_b[:, columns], before.b[:, rows]], dim=1) * after.scale
    return LowRank(left, torch.cat([after.a[columns], moved_a[rows]]))


def drawn_seed(layer: Layer) -> Tensor:
    """What `drawn_rows` goes by, for the state to keep: one number, drawn before round 1."""
    return torch.randint(2**62, (1,), generator=layer.generator)


def drawn_rows(layer: Layer, state: LayerState, client: str, rank: int) -> Tensor:
    """`rank` of the rows, ascending: the same when they are sent and when they are combined,
    others for every client, round and layer. By the state's "seed".
    """
    text = f"{int(state['seed'])}/{layer.name}/{layer.round}/{client}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    draw = torch.Generator().manual_seed(seed)
    return torch.randperm(state["a"].shape[0], generator=draw)[:rank].sort().values
