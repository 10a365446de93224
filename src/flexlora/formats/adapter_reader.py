"""What every reader of adapters offers, whatever the format: layers described, then read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import torch
from torch import Tensor

from flexlora.adapters import Factors
from flexlora.formats.peft_keys import Kind


@dataclass(frozen=True)
class StoredLayer:
    """What one layer of an adapter is, before any of it is read.

    (m, n): the update as a matrix, n = inputs · kernel for a convolution. a_shape, b_shape: the
    tensors as they are stored. scale: what stands before B A. dtype: the one that holds both sides;
    bfloat16 where they are stored in eight bits, and are widened.
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
    widened: bool = False


class AdapterReader(Protocol):
    """An adapter on disk, open; a context manager. whole: keys of tensors beside LoRA.

    base, base_fingerprint: "" where unknown. A damaged or foreign file is an AdapterError when it
    is opened; `factors` raises AdapterError for NaN and infinity.
    """

    path: Path

    @property
    def layers(self) -> Mapping[str, StoredLayer]: ...
    @property
    def whole(self) -> tuple[str, ...]: ...
    @property
    def base(self) -> str: ...
    @property
    def base_fingerprint(self) -> str: ...
    @property
    def fan_in_fan_out(self) -> bool: ...
    @property
    def task_type(self) -> str | None: ...
    @property
    def modules_to_save(self) -> Sequence[str]: ...
    def factors(self, name: str) -> Factors: ...
    def tensor(self, key: str) -> Tensor: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


class LayerWriter(Protocol):
    """What a merge hands layers and tensors to, in the format of what came in.

    keeps_scales: whether scales stay what they are, in place of α = r. one_rank: once all is
    written, the rank of every layer; None where they differ.
    """

    @property
    def keeps_scales(self) -> bool: ...
    @property
    def one_rank(self) -> int | None: ...

    def add_like(self, layer: StoredLayer, factors: Factors) -> None: ...
    def whole(self, key: str, tensor: Tensor) -> None: ...


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
