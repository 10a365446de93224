"""A model as planning sees it: sizes alone, no weights. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flexlora.adapters import LayerSpec


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model.

    layers: those that are adapted. parameters: all numbers of the base; linear: of its linear
    layers but the output head, which 4 and 8 bits pack; head: of the output head, tied or not.
    largest: of its largest linear layer. vocabulary: logits of a place. blocks: layers of the
    decoder. attention: numbers of all queries of a token, over all blocks; heads: all heads of
    those. whole_logits: the model changes its logits after the head, so that all learnt places are
    computed at once.
    """

    name: str
    layers: tuple[LayerSpec, ...]
    parameters: int
    linear: int
    head: int
    largest: int
    vocabulary: int
    blocks: int
    attention: int
    heads: int
    whole_logits: bool = False

    def trainable(self, ranks: Mapping[str, int]) -> int:
        """Numbers of an adapter of these ranks (layer → rank)."""
        return sum(ranks[x.name] * (x.m + x.n) for x in self.layers)


@dataclass(frozen=True)
class Footprint:
    """Of a step through a model, for one token and beside all tokens, at rank 1 in what it does and
    without what ranks take in what it holds; without logits.

    kept: bytes there when the forward pass ends; highest: at most at once; moved: that operations
    read and write; calls: how many operations there are; attended: how often attention is computed
    for each time that it is on the way back.
    """

    kept: float
    kept_fixed: float
    highest: float
    highest_fixed: float
    moved: float = 0.0
    moved_fixed: float = 0.0
    calls: float = 0.0
    calls_fixed: float = 0.0
    attended: float = 1.0
