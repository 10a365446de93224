"""What training takes of a device's memory, from sizes alone. Pure.

peak = weights + cohort · (received + trained + gradients + moments)
       + max(kept + inner + logits, highest + inner)

What a pass keeps for its way back grows with tokens (`Footprint`); inner is four bytes for each
token and each rank of each layer (the inner product of its branch, in float32).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flexlora.allocation.shape import Footprint, ModelShape

BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
LOGITS = 1 << 24
"""Logits that are held at once at most, unless a model changes them after its head."""

_WIDE = 4  # Bytes of an adapter's numbers, whatever the base's dtype.
# Bytes of a packed number with its scales: NF4 with double quantisation (a byte for each 64 numbers
# and four for each 256 of those), and int8 with four bytes a row.
_PACKED: Mapping[str, float] = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0 + 4 / 4096}


@dataclass(frozen=True)
class Setting:
    """How a client trains: batch examples of `length` tokens each, of which the share `learnt` is
    learnt; `cohort` such clients in one pass. quantise: "none", "4bit" or "8bit". origin: whether
    the start is kept beside what is trained.
    """

    batch: int
    length: int
    dtype: str = "bfloat16"
    optimiser: str = "adamw"
    checkpointing: bool = False
    quantise: str = "none"
    cohort: int = 1
    learnt: float = 1.0
    origin: bool = False

    @property
    def tokens(self) -> int:
        """Of one pass."""
        return self.batch * self.length * self.cohort


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak, by what takes them."""

    weights: float
    adapter: float
    pass_: float

    @property
    def training(self) -> float:
        """On top of the model."""
        return self.adapter + self.pass_

    @property
    def peak(self) -> float:
        return self.weights + self.training


def weight_bytes(shape: ModelShape, dtype: str, quantise: str = "none") -> float:
    """Of the frozen base. What is not a linear layer stays in `dtype`."""
    packed = _PACKED.get(quantise)
    if packed is None:
        return shape.parameters * BYTES[dtype]
    return shape.linear * packed + (shape.parameters - shape.linear) * BYTES[dtype]


def copies(setting: Setting) -> int:
    """Of an adapter while it trains: itself, its gradient, the optimiser's moments, its start."""
    return 2 + (2 if setting.optimiser == "adamw" else 0) + setting.origin


def training_memory(
    shape: ModelShape, footprint: Footprint, ranks: Mapping[str, int], setting: Setting
) -> Memory:
    """At the peak of training, what came from the server included. ranks: layer → rank, of every
    client of the cohort; footprint: of this dtype, length and checkpointing."""
    numbers = shape.trainable(ranks) * _WIDE * setting.cohort
    tokens = setting.tokens
    inner = float(_WIDE * tokens * sum(ranks[x.name] for x in shape.layers))
    if setting.checkpointing:  # Of one block at a time, and of none when the forward pass ends.
        inner, there = inner / max(1, shape.blocks), 0.0
    else:
        there = inner
    kept = footprint.kept * tokens + footprint.kept_fixed + there + _logits(shape, setting)
    highest = footprint.highest * tokens + footprint.highest_fixed + inner
    unpacked = shape.largest * BYTES[setting.dtype] if setting.quantise != "none" else 0
    passing = max(kept, highest) + unpacked
    # At the end what was trained is copied, when no pass needs anything any more.
    return Memory(
        weights=weight_bytes(shape, setting.dtype, setting.quantise),
        adapter=(1 + copies(setting)) * numbers,
        pass_=max(passing, numbers),
    )


def _logits(shape: ModelShape, setting: Setting) -> float:
    """Softmax of the logits, and two gradients of their shape, in float32."""
    places = max(1.0, setting.tokens * setting.learnt)
    if not shape.whole_logits:
        places = min(places, max(1, LOGITS // shape.vocabulary))
    return places * shape.vocabulary * 3 * _WIDE
