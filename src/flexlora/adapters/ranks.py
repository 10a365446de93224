"""Which layers are adapted, and at which rank each client trains each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from flexlora.errors import RankError, nearest

Scaling = Literal["lora", "rslora", "anchored"]
_ORDER = ("attention", "mlp", "other")  # Of kinds of layers, in words.


def kind_of_layer(name: str) -> str:
    """ "attention", "mlp" or "other", by a layer's path in its model."""
    path = name.lower()
    if "attn" in path or "attention" in path:
        return "attention"
    if "mlp" in path or "ffn" in path or "feed_forward" in path:
        return "mlp"
    return "other"


@dataclass(frozen=True)
class LayerSpec:
    """An adapted layer: its name in the model, m outputs and n inputs."""

    name: str
    m: int
    n: int

    @property
    def largest_rank(self) -> int:
        """min(m, n): beyond it a LoRA pair only repeats itself."""
        return min(self.m, self.n)

    @property
    def kind(self) -> str:
        """ "attention", "mlp" or "other", by the layer's path in the model."""
        return kind_of_layer(self.name)

    def matches(self, pattern: str) -> bool:
        """True for the layer's kind, its last name, its full name, or a glob over the full name."""
        return (
            pattern in (self.kind, self.name)
            or self.name.endswith("." + pattern)
            or fnmatchcase(self.name, pattern)
        )


def lora_scale(alpha: float, rank: int, scaling: Scaling = "lora", anchor: int = 1) -> float:
    """α/r (Hu et al. 2021), α/√r (rsLoRA, Kalajdzievski 2023), or α/√(anchor · r). 1 for rank 0.

    "anchored" is rsLoRA with α/√anchor for α, so that the rank `anchor`, the lowest of a
    federation, has α/r to the last bit; at anchor 1 it is rsLoRA. "lora" and "rslora" have none.
    """
    if rank == 0:
        return 1.0
    if scaling == "lora":
        return alpha / rank
    return alpha / math.sqrt(rank if scaling == "rslora" else anchor * rank)


@dataclass(frozen=True)
class Ranks:
    """What one client affords: pattern → rank; the first pattern that matches a layer decides.

    A pattern is a kind ("attention", "mlp", "other"), "all", a layer's last name ("q_proj"), its
    full name, or a glob ("*.layers.0.*").
    """

    patterns: tuple[tuple[str, int], ...]

    @staticmethod
    def of(ranks: int | Mapping[str, int]) -> Ranks:
        """One rank for all layers, or a mapping in which earlier patterns win."""
        if isinstance(ranks, int):
            return Ranks((("all", ranks),))
        return Ranks(tuple(ranks.items()))

    def scaled(self, factor: float) -> Ranks:
        """Every rank times `factor`, rounded, at least 1: the paper's types for a smaller model."""
        return Ranks(tuple((p, max(1, math.floor(r * factor + 0.5))) for p, r in self.patterns))

    def resolve(self, layers: Sequence[LayerSpec], *, clip: bool = False) -> dict[str, int]:
        """Layer name → rank for these layers. clip: at most min(m, n) of each layer.

        Raises RankError for a rank below 1, one above min(m, n) of a layer unless it is clipped, a
        pattern that matches no layer, and a layer that no pattern matches.
        """
        for pattern, rank in self.patterns:
            if not any(pattern == "all" or layer.matches(pattern) for layer in layers):
                kinds = {layer.kind for layer in layers} | {x.name.split(".")[-1] for x in layers}
                raise RankError(
                    f"rank pattern '{pattern}' matches no adapted layer; {nearest(pattern, kinds)}"
                )
            if rank < 1:
                raise RankError(f"rank {rank} for '{pattern}' is below 1; give a rank of 1 or more")
        found = {layer.name: self._asked_of(layer) for layer in layers}
        for layer in layers:
            if found[layer.name] > layer.largest_rank and not clip:
                raise RankError(
                    f"rank {found[layer.name]} for layer {layer.name} is above min(m, n) = "
                    f"{layer.largest_rank}; lower the rank or the scale of the mix"
                )
        return {layer.name: min(found[layer.name], layer.largest_rank) for layer in layers}

    def too_wide(self, layers: Sequence[LayerSpec]) -> list[LayerSpec]:
        """The layers whose min(m, n) is below the rank that is asked of them."""
        return [layer for layer in layers if self._asked_of(layer) > layer.largest_rank]

    def _asked_of(self, layer: LayerSpec) -> int:
        for pattern, rank in self.patterns:
            if pattern == "all" or layer.matches(pattern):
                return rank
        raise RankError(f"no rank pattern matches layer {layer.name}; add a rank for 'all'")

    def __str__(self) -> str:
        """As they were asked for; `ranks_in_words` has what they come to."""
        if len(self.patterns) == 1 and self.patterns[0][0] == "all":
            return str(self.patterns[0][1])
        return ", ".join(f"{pattern} {rank}" for pattern, rank in self.patterns)


def ranks_in_words(ranks: Mapping[str, int]) -> str:
    """Layer name → rank, in words: "8", "attention 4, mlp 25", "attention 64 to 128, mlp 128"."""
    kinds: dict[str, list[int]] = {}
    for name, rank in ranks.items():
        kinds.setdefault(kind_of_layer(name), []).append(rank)
    words = {kind: _span(held) for kind, held in kinds.items()}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{kind} {words[kind]}" for kind in sorted(words, key=_ORDER.index))


def _span(ranks: Sequence[int]) -> str:
    low, high = min(ranks), max(ranks)
    return f"{low}" if low == high else f"{low} to {high}"
