"""A matrix held as a product of two thin ones, and arithmetic that never multiplies them out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

_SQUARES_FIT = 1e30  # Squares below it were taken without leaving float32, as their partners'.
_FEW_ROWS = 256  # Squared at a time: it stays in the cache.


def accumulation_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The dtype sums are taken in: float64 if any input is float64, else float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


@dataclass(frozen=True, eq=False)
class LowRank:
    """The m × n matrix `left @ right`, with every scale already folded in.

    left: (m, r); right: (r, n). r may be 0 (the zero matrix) and may exceed min(m, n): it is the
    inner width, an upper bound of the rank. Inputs of any floating dtype are taken; they are held
    in float32 or better. No method changes its inputs.
    """

    left: Float[Tensor, "m r"]
    right: Float[Tensor, "r n"]

    def __post_init__(self) -> None:
        if self.left.ndim != 2 or self.right.ndim != 2 or self.left.shape[1] != self.right.shape[0]:
            raise ValueError(
                f"LowRank needs left (m, r) and right (r, n); got {tuple(self.left.shape)} "
                f"and {tuple(self.right.shape)}"
            )
        dtype = accumulation_dtype(self.left.dtype, self.right.dtype)
        object.__setattr__(self, "left", self.left.to(dtype))
        object.__setattr__(self, "right", self.right.to(dtype))

    @staticmethod
    def zero(m: int, n: int, dtype: torch.dtype = torch.float32) -> LowRank:
        """The zero matrix, of inner width 0."""
        return LowRank(torch.zeros(m, 0, dtype=dtype), torch.zeros(0, n, dtype=dtype))

    @staticmethod
    def weighted_sum(parts: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
        """Σ weights[i] · parts[i], exactly, by concatenation: the inner widths add up.

        Raises ValueError for no parts, lengths that differ, or shapes that differ.
        """
        if not parts or len(parts) != len(weights):
            raise ValueError(f"weighted_sum got {len(parts)} parts and {len(weights)} weights")
        shapes = {part.shape for part in parts}
        if len(shapes) > 1:
            raise ValueError(f"weighted_sum got parts of different shapes: {sorted(shapes)}")
        left = torch.cat([part.left * w for part, w in zip(parts, weights, strict=True)], dim=1)
        return LowRank(left, torch.cat([part.right for part in parts], dim=0))

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    @property
    def width(self) -> int:
        """The inner width r, an upper bound of the rank."""
        return self.left.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of both factors."""
        return self.left.nbytes + self.right.nbytes

    @cached_property
    def whole(self) -> Tensor | None:
        """The matrix itself where the other factor is the identity, as of `Dense.low_rank`."""
        m, n = self.shape
        if self.width != min(m, n):
            return None
        factor, one = (self.left, self.right) if n <= m else (self.right, self.left)
        return factor if torch.equal(one, torch.eye(len(one)).to(one)) else None

    def dense(self) -> Float[Tensor, "m n"]:
        """Multiply out. The only method that forms m × n numbers."""
        return self.left @ self.right

    def scaled(self, factor: float) -> LowRank:
        return LowRank(self.left * factor, self.right)

    def magnitude(self) -> float:
        """√Σ‖left_j‖²‖right_j‖²: the scale of the product's rounding, even where it cancels."""
        columns = sum(
            (
                self.left[begin : begin + _FEW_ROWS].square().sum(dim=0)
                for begin in range(0, self.left.shape[0], _FEW_ROWS)
            ),
            self.left.new_zeros(self.width),
        )
        rows = torch.linalg.vector_norm(self.right, dim=1).square()
        if self.width and not max(float(columns.max()), float(rows.max())) < _SQUARES_FIT:
            columns = torch.linalg.vector_norm(self.left, dim=0, dtype=torch.float64).square()
            rows = torch.linalg.vector_norm(self.right, dim=1, dtype=torch.float64).square()
        return math.sqrt(float(columns.double() @ rows.double()))

    def __add__(self, other: LowRank) -> LowRank:
        return LowRank.weighted_sum([self, other], [1.0, 1.0])

    def __sub__(self, other: LowRank) -> LowRank:
        return LowRank.weighted_sum([self, other], [1.0, -1.0])

    def norm(self) -> float:
        """Frobenius norm from the factors, in float64."""
        left, right = self.left.double(), self.right.double()
        squared = ((left.T @ left) * (right @ right.T)).sum()
        return math.sqrt(max(float(squared), 0.0))


@dataclass(frozen=True, eq=False)
class Dense:
    """An m × n matrix multiplied out, for sums so wide that their factors would be larger.

    magnitude: scale of the rounding that it carries from the products it is the sum of.
    """

    matrix: Float[Tensor, "m n"]
    magnitude: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape[0], self.matrix.shape[1]

    def dense(self) -> Float[Tensor, "m n"]:
        """The matrix itself, for who has a LowRank or this."""
        return self.matrix

    def low_rank(self) -> LowRank:
        """The same matrix as two factors, one of which is the identity."""
        m, n = self.shape
        one = torch.eye(min(m, n), dtype=self.matrix.dtype, device=self.matrix.device)
        return LowRank(self.matrix, one) if n <= m else LowRank(one, self.matrix)


Matrix = LowRank | Dense
