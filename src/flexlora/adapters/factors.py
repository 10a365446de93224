"""One layer's LoRA parameters as they are trained, and a whole model's worth of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flexlora.errors import AdapterError
from flexlora.lowrank import LowRank


@dataclass(frozen=True, eq=False)
class Factors:
    """The update `scale · b @ a` of one layer with m outputs and n inputs.

    b: (m, r), zero at the start of training; a: (r, n); scale: α/r, or α/√r for rsLoRA. The scale
    is never folded into what is trained: that would change the training.
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

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the layer."""
        return self.b.shape[0], self.a.shape[1]

    def product(self) -> LowRank:
        """`scale · b @ a` as a factored matrix, the scale folded into the left side."""
        left = self.b.to(torch.promote_types(self.b.dtype, torch.float32)) * self.scale
        return LowRank(left, self.a)

    def unscaled(self) -> LowRank:
        """`b @ a` alone: for sums, which can take the scale into a weight."""
        return LowRank(self.b, self.a)

    def cut(self, rank: int) -> Factors:
        """The first `rank` directions at the same scale (all of them when there are fewer)."""
        return Factors(self.b[:, :rank], self.a[:rank], self.scale)

    def finite(self) -> bool:
        """True if neither factor nor the scale holds NaN or infinity."""
        return math.isfinite(self.scale) and _all_finite(self.b) and _all_finite(self.a)


class Adapter(Mapping[str, Factors]):
    """Layer name → `Factors`, in name order. What travels, what is saved, what is merged.

    Immutable. Ranks may differ by layer. `base` names the model it was made for ("" if unknown);
    `base_fingerprint` is "<precision>:<sha256 of its weights>" ("" if unknown: PEFT notes none).
    `fan_in_fan_out`: whether that model keeps its weights as (n, m), as GPT-2's Conv1D does.
    """

    def __init__(
        self,
        layers: Mapping[str, Factors],
        base: str = "",
        *,
        base_fingerprint: str = "",
        fan_in_fan_out: bool = False,
    ) -> None:
        self._layers = {name: layers[name] for name in sorted(layers)}
        self.base = base
        self.base_fingerprint = base_fingerprint
        self.fan_in_fan_out = fan_in_fan_out

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
        """Number of trained numbers: Σ (m + n) · r."""
        return sum(f.a.numel() + f.b.numel() for f in self.values())

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
