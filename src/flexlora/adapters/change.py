"""What training changed of a layer, so that what stood still is exactly zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flexlora.adapters.factors import Adapter, Factors
from flexlora.lowrank import LowRank, accumulation_dtype


def change(trained: Factors, sent: Factors) -> LowRank:
    """trained − sent of one layer; exactly zero where no number was moved.

    Of the products, B'A' − BA = (B' − B)A' + B(A' − A): the difference of two products cancels to
    their rounding only, never to nothing. Directions beyond the lower rank of the two are added, or
    taken away, whole. Where one side alone came back, the change is of that side, without a scale.
    A side that was not sent counts as zero: all of it that came back is new.
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
    moved_b = new_b[:, :both] - old_b[:, :both]
    left = torch.cat([moved_b, old_b[:, :both], new_b[:, both:], -old_b[:, both:]], dim=1)
    right = torch.cat([new_a[:both], new_a[:both] - old_a[:both], new_a[both:], old_a[both:]])
    return LowRank(left.to(dtype), right)


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
