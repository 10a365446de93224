"""What a merge did, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flexlora.formats.peft_keys import Kind


@dataclass(frozen=True)
class MergedLayer:
    """One layer. (m, n): its update as a matrix.

    ranks: of each adapter, None where an adapter lacks the layer (it counts as zero there).
    rank: of what was written, without the zeros that fill it up; norm: ‖Σ w ΔW‖_F; error:
    ‖Σ w ΔW − what was written‖_F before it was rounded to the dtype that is stored. Both are exact,
    by the certificate of the truncation.
    """

    name: str
    kind: Kind
    m: int
    n: int
    ranks: tuple[int | None, ...]
    rank: int
    norm: float
    error: float

    @property
    def share(self) -> float:
        """Discarded share of the energy ‖·‖²_F, between 0 and 1."""
        return (self.error / self.norm) ** 2 if self.norm > 0.0 else 0.0


@dataclass(frozen=True)
class Merged:
    """A merge that is done.

    adapters, weights: in the order given; zero: which of them change nothing, their A or B being
    zero in every layer; initial: what each was taken less, if anything. nbytes: of what was
    written. one_rank: what every layer is filled up to, None where each has its own. untouched: it
    is the one adapter that was given, tensors and scales bit for bit. dtype: of A and B, "… and …"
    where those of one adapter alone have several. tokenizer: "kept" where one that lay beside the
    adapters went along, "differ" where they have several, of which none did.
    """

    out: Path
    adapters: tuple[Path, ...]
    weights: tuple[float, ...]
    zero: tuple[bool, ...]
    initial: tuple[Path | None, ...]
    layers: tuple[MergedLayer, ...]
    dtype: str
    nbytes: int
    one_rank: int | None
    untouched: bool
    tokenizer: Literal["none", "kept", "differ"]

    @property
    def lacking(self) -> tuple[tuple[str, ...], ...]:
        """Of each adapter the layers that it lacks and another has; they count as zero there."""
        return tuple(
            tuple(layer.name for layer in self.layers if layer.ranks[place] is None)
            for place in range(len(self.adapters))
        )

    @property
    def norm(self) -> float:
        """‖Σ w ΔW‖_F over all layers."""
        return math.hypot(*(layer.norm for layer in self.layers))

    @property
    def error(self) -> float:
        """The distance of what was written from the exact sum, over all layers."""
        return math.hypot(*(layer.error for layer in self.layers))

    @property
    def share(self) -> float:
        """Discarded share of the energy over all layers."""
        return (self.error / self.norm) ** 2 if self.norm > 0.0 else 0.0

    @property
    def parameters(self) -> int:
        return sum((layer.m + layer.n) * layer.rank for layer in self.layers)
