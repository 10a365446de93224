"""One layer of an adapter on disk, in any format: its two sides judged, described and read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from flexlora.adapters import Factors
from flexlora.errors import AdapterError
from flexlora.formats.parameters import Expert
from flexlora.formats.peft_keys import Kind
from flexlora.formats.tensor_file import DTYPES, Stored

_FLOATS: Final = {name: dtype for name, dtype in DTYPES.items() if dtype.is_floating_point}


@dataclass(frozen=True)
class StoredLayer:
    """What one layer of an adapter is, before any of it is read.

    (m, n): the update as a matrix, n = inputs · kernel for a convolution. a_shape, b_shape: the
    tensors as they are stored, of an expert its own. expert: of a parameter, which it is; None for
    other layers. scale: what stands before B A. dtype: the one that holds both sides;
    bfloat16 where they are stored in eight bits. widened: whether one is.
    """

    name: str
    kind: Kind
    m: int
    n: int
    rank: int
    scale: float
    a_key: str
    b_key: str
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    dtype: torch.dtype
    widened: bool
    expert: Expert | None = None


def sides_of(
    path: Path, name: str, keys: Mapping[str, str], tensors: Mapping[str, Stored]
) -> tuple[Stored, Stored]:
    """A and B of a layer, whose keys are by side, "A" and "B".

    Raises AdapterError where one is missing, or is of a type that is no float.
    """
    if "A" not in keys or "B" not in keys:
        missing = "B (lora_B, lora_up)" if "A" in keys else "A (lora_A, lora_down)"
        raise AdapterError(f"layer {name} in {path} has no {missing}; save the adapter again")
    a, b = tensors[keys["A"]], tensors[keys["B"]]
    if not {a.dtype, b.dtype} <= _FLOATS.keys():
        raise AdapterError(
            f"layer {name} in {path} is stored as {a.dtype} and {b.dtype}; save it as floats"
        )
    return a, b


def stored_layer(
    name: str,
    kind: Kind,
    rank: int,
    scale: float,
    keys: Mapping[str, str],
    sides: tuple[Stored, Stored],
) -> StoredLayer:
    """The layer whose sides, A and B, `sides_of` gave."""
    a, b = sides
    dtypes = [_FLOATS[side.dtype] for side in sides]
    return StoredLayer(
        name,
        kind,
        m=b.shape[0],
        n=math.prod(a.shape[1:]),
        rank=rank,
        scale=scale,
        a_key=keys["A"],
        b_key=keys["B"],
        a_shape=a.shape,
        b_shape=b.shape,
        dtype=holding(*dtypes),
        widened=any(dtype.itemsize == 1 for dtype in dtypes),
    )


def matrices(path: Path, layer: StoredLayer, a: Tensor, b: Tensor) -> Factors:
    """The layer's tensors as matrices, in their dtypes, but eight-bit floats in bfloat16.

    Raises AdapterError for NaN and infinity.
    """
    b, a = (widened(b).reshape(layer.m, -1), widened(a).reshape(-1, layer.n))
    factors = Factors(b, a, layer.scale)
    if not factors.finite():
        raise AdapterError(
            f"{path}: layer {layer.name} of the adapter holds NaN or infinity; train again with a "
            "lower learning rate or with gradient clipping"
        )
    return factors


def kind_of(path: Path, name: str, key: str, a: tuple[int, ...], b: tuple[int, ...]) -> Kind:
    """What a layer of these shapes of A and B is. Raises AdapterError where they are no pair."""
    embedding = ".lora_embedding_" in key
    if len(a) == len(b) == 2 and a[0] == b[1]:
        return "embedding" if embedding else "linear"
    shapes = f"{a} and {b}"
    if embedding or len(a) != len(b) or not 3 <= len(a) <= 5 or set(b[2:]) != {1}:
        raise AdapterError(
            f"layer {name} in {path} has lora_A and lora_B of shapes {shapes}, expected (r, n) and "
            "(m, r); only linear, embedding and convolution layers can be read"
        )
    if a[0] != b[1]:
        raise AdapterError(
            f"layer {name} in {path} has lora_A and lora_B of shapes {shapes}: LoRA on a grouped "
            "convolution, whose update is no product of two matrices; leave that layer out"
        )
    return "convolution"


def holding(*dtypes: torch.dtype) -> torch.dtype:
    """The narrowest dtype of two bytes or more that holds them all, eight bits as bfloat16."""
    wide = [torch.bfloat16 if dtype.itemsize == 1 else dtype for dtype in dtypes]
    found = wide[0]
    for dtype in wide[1:]:
        found = torch.promote_types(found, dtype)
    return found


def widened(tensor: Tensor) -> Tensor:
    """The tensor; eight-bit floats, which torch cannot sum, as bfloat16, which holds them all."""
    return tensor.to(torch.bfloat16) if tensor.dtype.itemsize == 1 else tensor
