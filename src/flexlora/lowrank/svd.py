"""Exact compact SVD of a factored matrix, and truncation that reports what it discarded.

Two routes, chosen by shape alone: from the factors (thin QR of both, SVD of the small core) while
the inner width is below min(m, n), and dense above. Both are exact up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flexlora.lowrank.lowrank import LowRank

# Measured rounding noise of either route stays below 1.5 eps of the scale in `_noise`, whatever
# the shape; the usual max(m, n) · eps would drop directions a thousand times larger than that.
NOISE_IN_EPS = 8.0


@dataclass(frozen=True, eq=False)
class Spectrum:
    """U diag(s) Vᵀ with orthonormal columns of u and rows of vh, s descending and non-negative.

    u: (m, k); s: (k,); vh: (k, n), k ≤ min(m, n).
    """

    u: Float[Tensor, "m k"]
    s: Float[Tensor, " k"]
    vh: Float[Tensor, "k n"]

    @staticmethod
    def zero(m: int, n: int, dtype: torch.dtype = torch.float32) -> Spectrum:
        """The spectrum of the zero matrix: no singular value at all."""
        empty = LowRank.zero(m, n, dtype)
        return Spectrum(empty.left, torch.zeros(0, dtype=dtype), empty.right)

    @property
    def rank(self) -> int:
        """Number of singular values held."""
        return self.s.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.u.shape[0], self.vh.shape[1]

    def low_rank(self) -> LowRank:
        """The same matrix: singular values on the left, orthonormal rows on the right."""
        return LowRank(self.u * self.s, self.vh)

    def rank_for(self, energy: float) -> int:
        """Smallest rank that keeps at least the share `energy` (0 < energy ≤ 1) of Σ s²."""
        if not 0.0 < energy <= 1.0:
            raise ValueError(f"energy is {energy}; give a share above 0 and at most 1")
        kept = self.s.double().square().cumsum(0)
        if self.rank == 0 or float(kept[-1]) == 0.0:
            return 0
        wanted = energy * float(kept[-1])
        return int((kept < wanted).sum().clamp(max=self.rank - 1)) + 1

    def truncate(self, rank: int) -> Truncation:
        """The best approximation of at most this rank (Eckart–Young), and its exact error."""
        if rank < 0:
            raise ValueError(f"rank is {rank}; give 0 or more")
        keep = min(rank, self.rank)
        kept = Spectrum(self.u[:, :keep], self.s[:keep], self.vh[:keep])
        return Truncation(kept, self.s[keep:])


@dataclass(frozen=True, eq=False)
class Truncation:
    """A truncated matrix with its certificate: the singular values that were cut off, exactly."""

    kept: Spectrum
    discarded: Float[Tensor, " d"]

    @property
    def error(self) -> float:
        """‖matrix − kept‖_F, equal to the norm of the discarded singular values."""
        return float(self.discarded.double().norm())

    @property
    def share(self) -> float:
        """Discarded share of the energy Σ s², between 0 and 1 (0 for the zero matrix)."""
        lost = float(self.discarded.double().square().sum())
        total = lost + float(self.kept.s.double().square().sum())
        return lost / total if total > 0.0 else 0.0


def svd(matrix: LowRank) -> Spectrum:
    """The compact SVD of a factored matrix, in the dtype of its factors.

    Guarantees: u, vh orthonormal; s descending; the product equals the matrix to rounding of
    float32 (or float64 for float64 factors). Singular values below rounding (8 eps of the largest
    of s₀ and √Σ‖left_j‖²‖right_j‖²) are dropped, so that a rank-deficient sum comes back at its
    true rank, and parts that cancel come back as zero rather than as noise.
    The core SVD is taken in float64: it is small, and its error would otherwise be the largest.
    Raises ValueError for NaN or infinity.
    """
    m, n = matrix.shape
    dtype = matrix.left.dtype
    if not bool(torch.isfinite(matrix.left).all() and torch.isfinite(matrix.right).all()):
        raise ValueError("svd got NaN or infinity in the factors; check them before summing")
    if 0 in (m, n, matrix.width):
        return Spectrum.zero(m, n, dtype)
    # Balanced scales keep the products of factors of 1e±15 inside float32.
    left, right, exponent = _balanced(matrix)
    if matrix.width < min(m, n):
        q_left, r_left = torch.linalg.qr(left)
        q_right, r_right = torch.linalg.qr(right.T)
        u, s, vh = torch.linalg.svd(r_left.double() @ r_right.double().T, full_matrices=False)
        u, vh = q_left @ u.to(dtype), vh.to(dtype) @ q_right.T
    else:
        u, s, vh = torch.linalg.svd((left @ right).double(), full_matrices=False)
        u, vh = u.to(dtype), vh.to(dtype)
    keep = int((s > _noise(left, right, float(s[0]))).sum())
    s = torch.ldexp(s[:keep], torch.tensor(exponent, dtype=torch.int32)).to(dtype)
    return Spectrum(u[:, :keep].contiguous(), s, vh[:keep].contiguous())


def _noise(left: Tensor, right: Tensor, largest: float) -> float:
    """Below this a singular value of `left @ right` is rounding, even where directions cancel."""
    columns = torch.linalg.vector_norm(left, dim=0, dtype=torch.float64)
    rows = torch.linalg.vector_norm(right, dim=1, dtype=torch.float64)
    return NOISE_IN_EPS * torch.finfo(left.dtype).eps * max(largest, float((columns * rows).norm()))


def _balanced(matrix: LowRank) -> tuple[Tensor, Tensor, int]:
    """Scale both factors to entries below 1 by powers of two; return the product's exponent."""
    exponents = []
    factors = []
    for factor in (matrix.left, matrix.right):
        largest = factor.abs().max()
        exponent = int(torch.frexp(largest).exponent) if float(largest) > 0.0 else 0
        exponents.append(exponent)
        factors.append(torch.ldexp(factor, torch.tensor(-exponent, dtype=torch.int32)))
    return factors[0], factors[1], sum(exponents)


def effective_rank(values: Tensor) -> float:
    """exp(entropy of σ/Σσ) of singular values, in float64 (Roy & Vetterli, EUSIPCO 2007).

    values: (k,), non-negative, in any order. Between 1 and the number of non-zero values, equal to
    it where they are all alike; the same for values at any scale. 0 for no values or all zeros.
    Raises ValueError for a negative value, NaN or infinity.
    """
    sigma = values.detach().double()
    if not bool(torch.isfinite(sigma).all() and (sigma >= 0.0).all()):
        raise ValueError("effective_rank got a value that is negative, NaN or infinite")
    largest = float(sigma.max()) if sigma.numel() else 0.0
    if largest == 0.0:
        return 0.0
    share = sigma / largest  # First: a sum of large values could overflow.
    share = share / share.sum()
    return math.exp(float(torch.special.entr(share).sum()))
