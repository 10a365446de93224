"""What an adapter holds, layer by layer: ranks, norms and singular values of its products."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch

from flexlora.adapters.factors import Adapter, Factors
from flexlora.errors import AdapterError
from flexlora.lowrank import effective_rank, svd

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|(?<=\[)\d+(?=\]$)")


@dataclass(frozen=True)
class LayerAnatomy:
    """One layer's update ΔW = scale · b @ a, of m × n numbers.

    rank: that of the factors; norm: ‖ΔW‖_F; singular_values: those of ΔW above rounding,
    descending, so fewer than `rank` where directions repeat each other or are zero;
    effective_rank: exp of their entropy (Roy & Vetterli 2007).
    """

    name: str
    m: int
    n: int
    rank: int
    scale: float
    parameters: int
    nbytes: int
    dtype: str
    norm: float
    effective_rank: float
    singular_values: tuple[float, ...]


def dissect(adapter: Adapter) -> tuple[LayerAnatomy, ...]:
    """All layers in natural order ("layers.2" before "layers.10"), one exact SVD each.

    Raises AdapterError for an adapter with NaN or infinity, in its factors or their product.
    """
    adapter.require_finite()
    return tuple(_layer(name, adapter[name]) for name in sorted(adapter, key=_natural))


@runtime_checkable
class _Named(Protocol):
    @property
    def name(self) -> str: ...


_L = TypeVar("_L", bound=_Named)


def kinds(layers: Sequence[_L]) -> Mapping[str, tuple[_L, ...]]:
    """Layers of one name but for the numbers in it, "layers.*.q_proj", in the order of blocks."""
    found: dict[str, list[_L]] = {}
    for layer in layers:
        found.setdefault(_NUMBER.sub("*", layer.name), []).append(layer)
    return {kind: tuple(members) for kind, members in found.items()}


def _layer(name: str, factors: Factors) -> LayerAnatomy:
    product = factors.product()
    if not product.norm() <= torch.finfo(torch.float32).max:
        raise AdapterError(
            f"layer {name} of the adapter has an update above what float32 holds; train it again "
            "with a lower learning rate"
        )
    spectrum = svd(product).s
    return LayerAnatomy(
        name=name,
        m=factors.shape[0],
        n=factors.shape[1],
        rank=factors.rank,
        scale=factors.scale,
        parameters=factors.a.numel() + factors.b.numel(),
        nbytes=factors.a.nbytes + factors.b.nbytes,
        dtype=_dtypes(factors),
        norm=float(spectrum.double().norm()),
        effective_rank=effective_rank(spectrum),
        singular_values=tuple(spectrum.tolist()),
    )


def _dtypes(factors: Factors) -> str:
    names = dict.fromkeys(str(x.dtype).removeprefix("torch.") for x in (factors.a, factors.b))
    return " and ".join(names)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that compares runs of digits as numbers, however long, without making numbers."""
    texts = re.split(r"([0-9]+)", name)  # Every other part is digits.
    numbers = [text.lstrip("0") if place % 2 else text for place, text in enumerate(texts)]
    return [(1, len(x), x) if place % 2 else (0, 0, x) for place, x in enumerate(numbers)]
