"""Adapters in fewer bits on their way, rounded at random so that each number is right on average.

Source: stochastic rounding and one step a vector, as in QSGD (Alistarh et al. 2017, Sec. 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from flexlora.errors import AdapterError, shown

Wire = Literal["exact", "bfloat16", "int8"]
Rounded = tuple[Tensor, Tensor | None]
"""Numbers, and the step of each component where they have one."""
WIRES: tuple[Wire, ...] = get_args(Wire)
_MARK, _LEFT, _STEP = "wire", "wire.left", ".step"
_LEVELS = 127
_LOW = 1 << 16  # What of float32's bits bfloat16 has no room for.


def coarse(
    tensors: Mapping[str, Tensor], wire: Wire, draw: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, meta) in which each float32 matrix `<layer>.b` or `.a` has 16 bits, or 8.

    E[refined(coarse(x))] = x. Of bfloat16 the error of a number is below one step of that type; of
    int8 below 1/127 of the largest magnitude of its component (a column of b, a row of a), whose
    step travels beside it. Zeros stay zeros, numbers that are not finite stay not finite; tensors
    of another dtype stay as they are.
    """

    def rounded(x: Tensor, along: int) -> Rounded:
        return (_to_bfloat16(x, draw), None) if wire == "bfloat16" else _to_int8(x, along, draw)

    return _each(tensors, wire, rounded)


def coarse_like(
    tensors: Mapping[str, Tensor], wire: Wire
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `coarse` gives, as to names, shapes and dtypes: each tensor is one number in memory."""

    def rounded(x: Tensor, along: int) -> Rounded:
        if wire == "bfloat16":
            return torch.zeros((), dtype=torch.bfloat16).expand(x.shape), None
        numbers = torch.zeros((), dtype=torch.int8).expand(x.shape)
        return numbers, torch.zeros(()).expand(x.shape[1 - along])

    return _each(tensors, wire, rounded)


def _each(
    tensors: Mapping[str, Tensor], wire: Wire, rounded: Callable[[Tensor, int], Rounded]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """rounded: of a tensor, along this dimension."""
    if wire == "exact":
        return dict(tensors), {}
    made: dict[str, Tensor] = {}
    left = [name for name, x in tensors.items() if x.dtype != torch.float32]
    for name in sorted(tensors):
        if name in left:
            made[name] = tensors[name]
            continue
        made[name], step = rounded(tensors[name], _along(name))
        if step is not None:
            made[name + _STEP] = step
    return made, {_MARK: wire, **({_LEFT: ",".join(sorted(left))} if left else {})}


def refined(tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> dict[str, Tensor]:
    """The float32 numbers that `coarse` stands for; of what is exact, the tensors as they are.

    Raises AdapterError for a way of rounding that is none, a step that is missing or of another
    shape, and a dtype that does not belong to it.
    """
    wire = wire_of(meta)
    if wire == "exact":
        return dict(tensors)
    left = set(meta.get(_LEFT, "").split(","))
    found: dict[str, Tensor] = {}
    for name, x in tensors.items():
        if name in left:
            found[name] = x
        elif name.endswith(_STEP):
            continue
        elif wire == "bfloat16" and x.dtype == torch.bfloat16:
            found[name] = x.float()
        elif wire == "int8" and x.dtype == torch.int8 and x.ndim == 2:
            step, along = tensors.get(name + _STEP), _along(name)
            if step is None or step.dtype != torch.float32 or step.shape != (x.shape[1 - along],):
                raise AdapterError(f"payload tensor {shown(name)} in int8 needs a step a component")
            found[name] = x.float() * step.unsqueeze(along)
        else:
            raise AdapterError(f"payload tensor {shown(name)} is {x.dtype}, expected {wire}")
    return found


def wire_of(meta: Mapping[str, str]) -> Wire:
    """How a payload was rounded, by its meta. Raises AdapterError for a way that is none."""
    found = meta.get(_MARK, "exact")
    for wire in WIRES:
        if wire == found:
            return wire
    raise AdapterError(f"payload is rounded to {shown(found)}; expected bfloat16 or int8")


def _along(name: str) -> int:
    """The dimension along which the numbers of one component lie: of b (m, r) the first."""
    return 0 if name.endswith(".b") else 1


def _to_bfloat16(x: Tensor, draw: torch.Generator) -> Tensor:
    """Up with the probability of what is cut off: between neighbours float32's bits are even."""
    bits = x.contiguous().view(torch.int32)
    noise = torch.randint(_LOW, x.shape, generator=draw, dtype=torch.int32)
    rounded = ((bits + noise) & -_LOW).view(torch.float32)
    good = torch.isfinite(x) & torch.isfinite(rounded)
    return torch.where(good, rounded, x).to(torch.bfloat16)


def _to_int8(x: Tensor, along: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """(numbers, step a component)."""
    step = x.abs().amax(dim=along) / _LEVELS
    scaled = (x / step.unsqueeze(along)).nan_to_num(0.0)
    rounded = torch.floor(scaled + torch.rand(x.shape, generator=draw))
    return rounded.clamp(-_LEVELS, _LEVELS).to(torch.int8), step
