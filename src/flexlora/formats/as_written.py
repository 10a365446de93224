"""The two sides of a layer as they go into a file: scale, dtype, and ranks filled up."""

from __future__ import annotations

import torch
from torch import Tensor

from flexlora.adapters import Factors
from flexlora.formats.stored_dtype import require_held


def as_written(
    where: str, factors: Factors, dtype: torch.dtype | None, *, keep_scale: bool = False
) -> Factors:
    """The same update in this dtype (None: each side's own), rounded once, with the scale in B.

    keep_scale: leave the scale where it is. where: what is written, for errors.
    Raises AdapterError where the dtype cannot hold a value.
    """
    scale = 1.0 if keep_scale else factors.scale
    sides = []
    for side, by in ((factors.b, scale), (factors.a, 1.0)):
        stored = dtype or side.dtype
        if by == 1.0 and stored == side.dtype:
            sides.append(side)
            continue
        exact, why = side.double() * by, ""
        cures: tuple[str, ...] = ()
        if by != 1.0:
            why = f" once its scale of {by:.4g} is in B"
            cures = ("write it compact (PEFT folders keep scales then)",)
        require_held(where, [exact], stored, *cures, why=why)
        sides.append(exact.to(stored))
    return Factors(sides[0], sides[1], factors.scale if keep_scale else 1.0)


def scales_exactly(factors: Factors) -> bool:
    """Whether B takes the scale in without rounding."""
    exact = factors.b.double() * factors.scale
    return torch.equal(exact.to(factors.b.dtype).double(), exact)


def filled_up(tensor: Tensor, dimension: int, rank: int, experts: int = 1) -> Tensor:
    """Zeros behind the ranks that are there, along this dimension: 0 of an a, 1 of a b.

    experts: that lie in it, as `joined` lays them, each of which is filled up.
    """
    if experts > 1 and dimension == 0:
        apart = tensor.reshape(experts, -1, tensor.shape[1])
        return filled_up(apart, 1, rank).flatten(0, 1)
    shape = list(tensor.shape)
    shape[dimension] = rank * experts - shape[dimension]
    return (
        torch.cat([tensor, tensor.new_zeros(shape)], dim=dimension) if shape[dimension] else tensor
    )
