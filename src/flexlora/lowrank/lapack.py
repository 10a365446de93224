"""LAPACK's SVD, asked another way where it gives up on a matrix that is nothing special."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Public, but torch's own types leave it out.
GaveUp: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]


def lapack_svd(
    matrix: Float[Tensor, "m n"],
) -> tuple[Float[Tensor, "m r"], Float[Tensor, " r"], Float[Tensor, "r n"]]:
    """u, s, vh of a finite matrix, r = min(m, n).

    MKL's LAPACK now and then gives up on finite input (a core of 120 × 120 with singular values
    from 55 to 1e-40). Transposed, or from its last row to its first, the same matrix takes other
    roundings. Which way is taken follows from the matrix and the machine alone.
    Raises torch.linalg.LinAlgError where all three fail.
    """
    try:
        return _svd(matrix)
    except GaveUp:
        pass
    try:
        u, s, vh = _svd(matrix.T)
        return vh.T, s, u.T
    except GaveUp:
        u, s, vh = _svd(matrix.flip(0))
        return u.flip(0), s, vh


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u, s, vh
