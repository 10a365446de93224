"""How many directions a spectrum really uses."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def effective_rank(values: Tensor) -> float:
    """exp(entropy of σ/Σσ) of singular values, in float64 (Roy & Vetterli, EUSIPCO 2007).

    values: (k,), non-negative, in any order. Between 1 and the number of non-zero values, equal to
    it where they are all alike; the same for values at any scale. 0 for no values or all zeros.
    Raises ValueError for a negative value, NaN or infinity.
    """
    sigma = values.detach().double()
    if not bool(torch.isfinite(sigma).all() and (sigma >= 0.0).all()):
        raise ValueError("effective_rank got a value that is negative, NaN or infinite")
    largest = float(sigma.max()) if sigma.numel() else 0.0
    if largest == 0.0:
        return 0.0
    share = sigma / largest  # First: a sum of large values could overflow.
    share = share / share.sum()
    return math.exp(float(torch.special.entr(share).sum()))
