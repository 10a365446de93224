"""One layer's LoRA parameters as they are trained, and a whole model's worth of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from flexlora.adapters.about import About
from flexlora.errors import AdapterError
from flexlora.lowrank import LowRank

Sides = Literal["both", "a", "b"]


@dataclass(frozen=True, eq=False)
class Factors:
    """The update `scale · b @ a` of one layer with m outputs and n inputs.

    b: (m, r), zero at the start of training; a: (r, n); scale: see `lora_scale`. The scale
    is never folded into what is trained: that would change the training.

    A side may be absent, where only the other one travels (`only`): it has a shape then and no
    numbers, a tensor on torch's "meta" device, so that rank and shape stay what they are.
    """

    b: Float[Tensor, "m r"]
    a: Float[Tensor, "r n"]
    scale: float

    def __post_init__(self) -> None:
        if self.b.ndim != 2 or self.a.ndim != 2 or self.b.shape[1] != self.a.shape[0]:
            raise AdapterError(
                f"factors need b (m, r) and a (r, n) of one rank; got {tuple(self.b.shape)} "
                f"and {tuple(self.a.shape)}"
            )
        if self.b.is_meta and self.a.is_meta:
            raise AdapterError("factors lack both sides; give b, a or both")

    @property
    def sides(self) -> Sides:
        """Which sides are there."""
        if self.a.is_meta:
            return "b"
        return "a" if self.b.is_meta else "both"

    @property
    def numbers(self) -> int:
        """How many numbers the sides that are there hold."""
        return sum(side.numel() for side in (self.b, self.a) if not side.is_meta)

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the layer."""
        return self.b.shape[0], self.a.shape[1]

    def product(self) -> LowRank:
        """`scale · b @ a` as a factored matrix, the scale folded into the left side.

        Raises AdapterError where a side is absent.
        """
        self._require_both()
        left = self.b.to(torch.promote_types(self.b.dtype, torch.float32)) * self.scale
        return LowRank(left, self.a)

    def unscaled(self) -> LowRank:
        """`b @ a` alone: for sums, which can take the scale into a weight."""
        self._require_both()
        return LowRank(self.b, self.a)

    def cut(self, rank: int) -> Factors:
        """The first `rank` directions at the same scale (all of them when there are fewer)."""
        return Factors(self.b[:, :rank], self.a[:rank], self.scale)

    def only(self, sides: Sides) -> Factors:
        """The same with these sides alone. Raises AdapterError where none of them is there."""
        if sides == "both" or sides == self.sides:
            return self
        b = self.b if sides == "b" else self.b.to("meta")
        return Factors(b, self.a if sides == "a" else self.a.to("meta"), self.scale)

    def filled(self, other: Factors) -> Factors:
        """The same with an absent side from the first directions of `other`, if it is there."""
        if self.sides == "both":
            return self
        if self.sides == "b":
            return Factors(self.b, other.a[: self.rank], self.scale)
        return Factors(other.b[:, : self.rank], self.a, self.scale)

    def zero_filled(self) -> Factors:
        """The same with zeros for an absent side."""
        b, a = (torch.zeros_like(x, device="cpu") if x.is_meta else x for x in (self.b, self.a))
        return Factors(b, a, self.scale)

    def finite(self) -> bool:
        """True if neither the sides that are there nor the scale hold NaN or infinity."""
        sides = (side for side in (self.b, self.a) if not side.is_meta)
        return math.isfinite(self.scale) and all(map(_all_finite, sides))

    def is_zero(self) -> bool:
        """True if its update is, one of its sides being zero, as B is before training."""
        return not (self.b.any() and self.a.any())

    def _require_both(self) -> None:
        if self.sides != "both":
            raise AdapterError(
                f"factors of {self.shape[0]} × {self.shape[1]} hold {self.sides} alone, which is "
                "no update; fill the other side first"
            )


class Adapter(Mapping[str, Factors]):
    """Layer name → `Factors`, in name order. What travels, what is saved, what is merged.

    Immutable. Ranks may differ by layer. `about` says what it is for, as far as that is known: its
    base model, and what else a PEFT folder says of that.
    """

    def __init__(self, layers: Mapping[str, Factors], about: About | str = "") -> None:
        """about: a text names the base model alone."""
        self._layers = {name: layers[name] for name in sorted(layers)}
        self.about = about if isinstance(about, About) else About(about)

    @property
    def base(self) -> str:
        """The model that it was made for; "" if unknown."""
        return self.about.base

    @property
    def base_fingerprint(self) -> str:
        """The precision and the sha256 of that model's weights; "" if unknown."""
        return self.about.base_fingerprint

    def __getitem__(self, name: str) -> Factors:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        ranks = sorted({factors.rank for factors in self.values()})
        return f"Adapter({len(self)} layers, ranks {ranks}, {self.parameters:,} parameters)"

    @property
    def ranks(self) -> dict[str, int]:
        return {name: factors.rank for name, factors in self.items()}

    @property
    def parameters(self) -> int:
        """Number of trained numbers: Σ (m + n) · r, of the sides that are there."""
        return sum(f.numbers for f in self.values())

    def only(self, sides: Sides) -> Adapter:
        """The same with these sides of every layer alone; see `Factors.only`."""
        return (
            self if sides == "both" else self._mapped({n: f.only(sides) for n, f in self.items()})
        )

    def filled(self, other: Mapping[str, Factors]) -> Adapter:
        """The same with absent sides from `other`, layer by layer, where it has them."""
        return self._mapped(
            {name: f.filled(other[name]) if name in other else f for name, f in self.items()}
        )

    def _mapped(self, layers: Mapping[str, Factors]) -> Adapter:
        return Adapter(layers, self.about)

    def norm(self) -> float:
        """Frobenius norm of the whole update, over all layers."""
        return math.sqrt(sum(f.product().norm() ** 2 for f in self.values()))

    def require_finite(self) -> None:
        """Raise AdapterError naming the first layer that holds NaN or infinity."""
        for name, factors in self.items():
            if not factors.finite():
                raise AdapterError(
                    f"layer {name} of the adapter holds NaN or infinity; "
                    "train again with a lower learning rate or with gradient clipping"
                )


def _all_finite(x: Tensor) -> bool:
    """Terms of a finite sum are finite: each is looked at only where the sum, read once, is not."""
    return math.isfinite(x.sum()) or bool(torch.isfinite(x).all())
