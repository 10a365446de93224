"""Exact decompositions of a factored or a dense matrix. The routes are chosen by shape alone.

Factored while the inner width is below min(m, n), dense above; through Gram matrices in float64
where they hold every direction that is asked for, else through QR and the SVD of a small core, or
through the dense SVD.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from flexlora.lowrank.gram import LEAST_RATIO, DenseGram, FactoredGram
from flexlora.lowrank.lapack import lapack_svd
from flexlora.lowrank.lowrank import Dense, LowRank, Matrix
from flexlora.lowrank.spectrum import Certificate, Spectrum, Truncation

# Measured rounding noise of any route stays below 1.5 eps of their `magnitude`, whatever the
# shape; the usual max(m, n) · eps would drop directions a thousand times larger than that.
NOISE_IN_EPS = 8.0


def svd(matrix: Matrix) -> Spectrum:
    """The compact SVD of a factored or dense matrix, in its dtype.

    Guarantees: u, vh orthonormal; s descending; the product equals the matrix to rounding of
    float32 (or float64 for float64 factors). Singular values below rounding (8 eps of the largest
    of s₀ and √Σ‖left_j‖²‖right_j‖²) are dropped, so that a rank-deficient sum comes back at its
    true rank, and parts that cancel come back as zero rather than as noise.
    What is small is decomposed in float64: its error would otherwise be the largest.
    Raises ValueError for NaN or infinity.
    """
    return _decomposed(matrix, None)[0]


def best(matrix: Matrix, rank: int) -> Truncation:
    """The best approximation of at most this rank, and its exact distance. Errors as `svd`.

    Equal to `svd(matrix).truncate(rank)`, but the directions that are cut off are never made.
    """
    if rank < 0:
        raise ValueError(f"rank is {rank}; give 0 or more")
    kept, discarded = _decomposed(matrix, rank)
    return Truncation(kept, Certificate.exact(discarded))


def singular_values(matrix: Matrix) -> Tensor:
    """The singular values above rounding (k,), descending, in the matrix' dtype; errors as `svd`.

    Those below 1e-8 of the largest are rounding too, for they come from a Gram matrix.
    """
    return _decomposed(matrix, 0)[1]


def _decomposed(matrix: Matrix, rank: int | None) -> tuple[Spectrum, Tensor]:
    """The largest `rank` triplets (None: all), and the singular values that they leave out."""
    if isinstance(matrix, Dense):
        return _dense(matrix.matrix, rank, matrix.magnitude, 0)
    m, n = matrix.shape
    if 0 in (m, n, matrix.width):
        require_finite(matrix.left, matrix.right)
        return Spectrum.zero(m, n, matrix.left.dtype), matrix.left.new_zeros(0)
    if matrix.width < min(m, n):
        return _factored(matrix, rank)
    require_finite(matrix.left, matrix.right)
    left, right, exponent = balanced(matrix)
    return _dense(left @ right, rank, LowRank(left, right).magnitude(), exponent)


def _factored(matrix: LowRank, rank: int | None) -> tuple[Spectrum, Tensor]:
    dtype = matrix.left.dtype
    if dtype == torch.float32:
        route = FactoredGram(matrix.left, matrix.right)
        # Where a sum cancels, its parts set the scale of what a Gram matrix holds.
        least = LEAST_RATIO * route.magnitude
        found = _from_gram(route, route.magnitude, rank, 0, dtype, least) if route.finite else None
        if found is not None:
            return found
    require_finite(matrix.left, matrix.right)
    left, right, exponent = balanced(matrix)
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, s, vh = lapack_svd(r_left.double() @ r_right.double().T)
    keep, count = _kept(s, LowRank(left, right).magnitude(), rank, dtype)
    u, vh = q_left @ u[:, :keep].to(dtype), vh[:keep].to(dtype) @ q_right.T
    return _spectrum(u, s[:count], vh, keep, exponent, dtype)


def _dense(
    matrix: Tensor, rank: int | None, magnitude: float, exponent: int
) -> tuple[Spectrum, Tensor]:
    """`magnitude`: scale of the rounding that the matrix carries, where it is a product."""
    dtype = matrix.dtype
    if dtype == torch.float32 and rank is not None:  # All of it has its smallest directions too.
        route = DenseGram(matrix)
        found = _from_gram(route, magnitude, rank, exponent, dtype) if route.finite else None
        if found is not None:
            return found
    require_finite(matrix)
    u, s, vh = lapack_svd(matrix.double())
    keep, count = _kept(s, magnitude, rank, dtype)
    return _spectrum(u[:, :keep].to(dtype), s[:count], vh[:keep].to(dtype), keep, exponent, dtype)


def _from_gram(
    route: FactoredGram | DenseGram,
    magnitude: float,
    rank: int | None,
    exponent: int,
    dtype: torch.dtype,
    least: float = 0.0,
) -> tuple[Spectrum, Tensor] | None:
    """None where a direction that is asked for is below `least`, or too small beside the first."""
    keep, count = _kept(route.values, magnitude, rank, dtype)
    if keep and float(route.values[keep - 1]) < max(least, LEAST_RATIO * float(route.values[0])):
        return None
    if keep:
        u, vh = route.sides(keep)
    else:
        m, n = route.shape
        u, vh = route.values.new_zeros(m, 0), route.values.new_zeros(0, n)
    return _spectrum(u.to(dtype), route.values[:count], vh.to(dtype), keep, exponent, dtype)


def _kept(s: Tensor, magnitude: float, rank: int | None, dtype: torch.dtype) -> tuple[int, int]:
    """How many triplets to keep, and how many singular values stand above rounding."""
    count = count_above_rounding(s, magnitude, dtype)
    return count if rank is None else min(rank, count), count


def count_above_rounding(s: Tensor, magnitude: float, dtype: torch.dtype | None = None) -> int:
    """How many of these singular values, descending, are more than rounding (of their dtype)."""
    if not s.numel():
        return 0
    eps = torch.finfo(s.dtype if dtype is None else dtype).eps
    return int((s > NOISE_IN_EPS * eps * max(float(s[0]), magnitude)).sum())


def _spectrum(
    u: Tensor, s: Tensor, vh: Tensor, keep: int, exponent: int, dtype: torch.dtype
) -> tuple[Spectrum, Tensor]:
    s = _shifted(s, exponent).to(dtype)
    return Spectrum(u.contiguous(), s[:keep], vh.contiguous()), s[keep:]


def require_finite(*tensors: Tensor) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise ValueError("svd got NaN or infinity in the factors; check them before summing")


def balanced(
    matrix: LowRank,
) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r n"], int]:
    """Both factors scaled to entries below 1 by powers of two, and the product's exponent.

    Products of factors of 1e±15 stay inside float32 that way.
    """
    left, right = _exponent(matrix.left), _exponent(matrix.right)
    return _shifted(matrix.left, -left), _shifted(matrix.right, -right), left + right


def tamed(matrix: Matrix) -> tuple[Matrix, int]:
    """The matrix scaled by a power of two to entries near 1, and the exponent.

    Raises ValueError for NaN or infinity.
    """
    if isinstance(matrix, Dense):
        require_finite(matrix.matrix)
        exponent = _exponent(matrix.matrix)
        magnitude = math.ldexp(matrix.magnitude, -exponent)
        return Dense(_shifted(matrix.matrix, -exponent), magnitude), exponent
    require_finite(matrix.left, matrix.right)
    left, right, exponent = balanced(matrix)
    return LowRank(left, right), exponent


def _exponent(tensor: Tensor) -> int:
    """The e for which the largest entry is below 2^e, and at least half of that; 0 for zeros."""
    largest = tensor.abs().max() if tensor.numel() else tensor.new_zeros(())
    return int(torch.frexp(largest).exponent) if float(largest) > 0.0 else 0


def _shifted(tensor: Tensor, exponent: int) -> Tensor:
    return torch.ldexp(tensor, torch.tensor(exponent, dtype=torch.int32))
