"""What training changed of a layer, so that what stood still is exactly zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flexlora.adapters.factors import Adapter, Factors
from flexlora.lowrank import LowRank, accumulation_dtype


def change(trained: Factors, sent: Factors) -> LowRank:
    """trained − sent of one layer; exactly zero where no number was moved.

    Of the products, direction by direction, B'A' − BA = (B' − B)A' + B(A' − A), or with A and B'
    where A' is the longer: the difference of two products cancels to their rounding only, never to
    nothing, and a long A' would round away the A that is subtracted from it, and hide behind it
    that B is gone. So the rounding is that of B'A' and BA, whatever the factors' lengths.
    Directions beyond the lower rank of the two are added, or taken away, whole. Where one side
    alone came back, the change is of that side, without a scale. A side that was not sent counts as
    zero: all of it that came back is new.
    """
    sent, rank = sent.zero_filled(), trained.rank
    if trained.sides == "b":
        return LowRank(_less(trained.b, sent.b[:, :rank]), torch.eye(rank))
    if trained.sides == "a":
        return LowRank(torch.eye(rank), _less(trained.a, sent.a[:rank]))
    both = min(rank, sent.rank)
    dtype = accumulation_dtype(trained.b.dtype, trained.a.dtype, sent.b.dtype, sent.a.dtype)
    new_b, old_b = trained.b.double() * trained.scale, sent.b.double() * sent.scale
    new_a, old_a = trained.a.to(dtype), sent.a.to(dtype)
    longer = (new_a[:both].double().norm(dim=1) > old_a[:both].double().norm(dim=1))[:, None]
    kept_b = torch.where(longer.T, new_b[:, :both], old_b[:, :both])
    kept_a = torch.where(longer, old_a[:both], new_a[:both])
    moved_b, moved_a = new_b[:, :both] - old_b[:, :both], new_a[:both] - old_a[:both]
    left = torch.cat([moved_b, kept_b, new_b[:, both:], -old_b[:, both:]], dim=1)
    return LowRank(left.to(dtype), torch.cat([kept_a, moved_a, new_a[both:], old_a[both:]]))


def turned(trained: Factors, sent: Factors, width: int) -> LowRank:
    """trained − sent of the factors side by side: [B' − B; (A' − A)ᵀ], (m + n) × width.

    What rules that average factors add up: a change of a small product whose factors are far from
    those that were sent is a large one for them. Directions that one of the two lacks are zeros
    there, and so are those up to `width`, which both ranks are within. Zero of inner width 0 where
    one side alone came back, for then that is all of `change`.
    """
    sent = sent.zero_filled()
    (m, n), old, new = sent.shape, sent.rank, trained.rank
    if trained.sides != "both":
        return LowRank.zero(m + n, width)
    both = torch.zeros(m + n, max(old, new), dtype=torch.float64)
    both[:m, :new] += trained.b.double()
    both[m:, :new] += trained.a.T.double()
    both[:m, :old] -= sent.b.double()
    both[m:, :old] -= sent.a.T.double()
    return LowRank(both, torch.eye(both.shape[1], width, dtype=torch.float64))


def reach(adapter: Adapter, sent: Adapter) -> float:
    """‖trained − sent‖_F of the factors side by side, over all layers, as `turned` has them."""
    layers = ((f, sent[name]) for name, f in adapter.items())
    found = (turned(f, given, max(f.rank, given.rank)).left for f, given in layers)
    return math.sqrt(sum(float(x.norm()) ** 2 for x in found))


def norm_of_update(adapter: Adapter, sent: Adapter, *, origin: bool) -> float:
    """‖update‖_F over all layers: of what was trained, less what was sent where Δ holds that.

    Of a layer of which one side alone is known, the norm of that side's change.
    """
    return math.sqrt(sum(_update(f, sent[n], origin).norm() ** 2 for n, f in adapter.items()))


def _update(trained: Factors, sent: Factors, origin: bool) -> LowRank:
    whole = trained.sides == "both" and not origin
    return trained.product() if whole else change(trained, sent)


def _less(new: Tensor, old: Tensor) -> Tensor:
    dtype = accumulation_dtype(new.dtype, old.dtype)
    return new.to(dtype) - old.to(dtype)
