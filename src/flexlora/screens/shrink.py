"""How a change that a screen shrinks enters a rule, whatever the rule."""

from __future__ import annotations

import torch

from flexlora.adapters import Factors
from flexlora.lowrank import accumulation_dtype


def shrunk(trained: Factors, sent: Factors, share: float, *, as_factors: bool) -> Factors:
    """sent + share · (trained − sent), in float32 or better.

    as_factors: of the factors side by side, at the trained rank, for rules that compare factors
    (and wherever one side alone is known). Else of the products, exactly: the rank is then that of
    both together, and what Δ holds of `sent` is subtracted from it as ever. A side that was not
    sent counts as zero.
    """
    sent = sent.zero_filled()
    dtype = accumulation_dtype(trained.b.dtype, trained.a.dtype)
    b, a = trained.b.to(dtype), trained.a.to(dtype)
    if as_factors or trained.sides != "both":
        rank = trained.rank
        if trained.sides != "a":
            b = torch.lerp(sent.b[:, :rank].to(dtype), b, share)
        if trained.sides != "b":
            a = torch.lerp(sent.a[:rank].to(dtype), a, share)
        return Factors(b, a, trained.scale)
    rest = (1.0 - share) * sent.scale / trained.scale
    left = torch.cat([share * b, rest * sent.b.to(dtype)], dim=1)
    return Factors(left, torch.cat([a, sent.a.to(dtype)]), trained.scale)
