"""What a decomposition gives: singular triplets, and a truncation with its certificate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from flexlora.lowrank.lowrank import LowRank

Split = Literal["left", "balanced"]


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

    def low_rank(self, split: Split = "left") -> LowRank:
        """The same matrix in two factors.

        split: "left" puts the singular values on the left and leaves orthonormal rows on the right
        (arXiv 2402.11505); "balanced" gives √s to each side, so that both are of one size.
        """
        if split == "left":
            return LowRank(self.u * self.s, self.vh)
        root = self.s.sqrt()
        return LowRank(self.u * root, root[:, None] * self.vh)

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
        return Truncation(kept, Certificate.exact(self.s[keep:]))


@dataclass(frozen=True)
class Certificate:
    """What is known of the remainder `matrix − kept`, and how well. It never claims more.

    kind: "exact": `kept` is the best approximation of its rank, `error` its exact distance, to
    rounding. "exact-energy": `error` is the exact distance of this `kept`; that none is nearer is
    not proved. "probabilistic": `error` is an estimate (unbiased in its square).
    error: ‖matrix − kept‖_F. spectral: ‖matrix − kept‖₂, or an upper bound of it which holds with
    probability 1 − `failure` (exact: 0).
    """

    kind: Literal["exact", "exact-energy", "probabilistic"]
    error: float
    spectral: float
    failure: float = 0.0

    @staticmethod
    def exact(discarded: Tensor) -> Certificate:
        """The certificate of a best approximation that cut off these singular values (d,)."""
        largest = float(discarded[0]) if discarded.numel() else 0.0
        return Certificate("exact", float(discarded.double().norm()), largest)


@dataclass(frozen=True, eq=False)
class Truncation:
    """A matrix cut to a rank, with its certificate."""

    kept: Spectrum
    certificate: Certificate

    def scaled(self, exponent: int) -> Truncation:
        """The same truncation of matrix · 2^exponent: exact, but for what leaves the dtype."""
        if exponent == 0:
            return self
        kept, known = self.kept, self.certificate
        s = torch.ldexp(kept.s, torch.tensor(exponent, dtype=torch.int32))
        error, spectral = math.ldexp(known.error, exponent), math.ldexp(known.spectral, exponent)
        return Truncation(
            Spectrum(kept.u, s, kept.vh), Certificate(known.kind, error, spectral, known.failure)
        )

    @property
    def error(self) -> float:
        """‖matrix − kept‖_F, as sure as the certificate says."""
        return self.certificate.error

    @property
    def norm(self) -> float:
        """‖matrix‖_F, from what is kept and what is not, which are orthogonal."""
        return math.hypot(self.error, float(self.kept.s.double().norm()))

    @property
    def share(self) -> float:
        """Discarded share of the energy Σ s², between 0 and 1 (0 for the zero matrix)."""
        return (self.error / self.norm) ** 2 if self.norm > 0.0 else 0.0
