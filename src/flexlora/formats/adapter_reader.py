"""What every reader of adapters offers, whatever the format: layers described, then read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from torch import Tensor

from flexlora.adapters import About, Factors
from flexlora.formats.stored_layer import StoredLayer


class AdapterReader(Protocol):
    """An adapter on disk, open; a context manager. whole: keys of tensors beside LoRA.

    A damaged or foreign file is an AdapterError when it is opened; `factors` raises AdapterError
    for NaN and infinity. summand: the same update in the form that loses least in a sum of float32;
    cancels: whether the update is what large products differ by.
    """

    path: Path
    cancels: bool

    @property
    def layers(self) -> Mapping[str, StoredLayer]: ...
    @property
    def whole(self) -> tuple[str, ...]: ...
    @property
    def about(self) -> About: ...
    @property
    def modules_to_save(self) -> Sequence[str]: ...
    @property
    def target_parameters(self) -> Sequence[str]: ...
    def factors(self, name: str) -> Factors: ...
    def summand(self, name: str) -> Factors: ...
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
