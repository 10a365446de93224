"""LAPACK's decompositions, asked another way where it gives up on a matrix that is nothing special.

MKL's LAPACK now and then gives up on finite input: its SVD did on a core of 120 × 120 with singular
values from 55 to 1e-40. Transposed, or from its last row to its first, the same matrix takes other
roundings. Which way is taken follows from the matrix and the machine alone.
"""

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

    Raises torch.linalg.LinAlgError where all three ways fail.
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


def lapack_eigh(
    matrix: Float[Tensor, "n n"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n"]]:
    """Eigenvalues, ascending, and eigenvectors, as columns, of a finite symmetric matrix.

    Raises torch.linalg.LinAlgError where both ways fail.
    """
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except GaveUp:
        values, vectors = torch.linalg.eigh(matrix.flip(0, 1))
        vectors = vectors.flip(0)
    return values, vectors


def lapack_eigvalsh(matrix: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """The eigenvalues alone; those of `lapack_eigh` where the library gives up on it."""
    try:
        values: Tensor = torch.linalg.eigvalsh(matrix)
    except GaveUp:
        values, _ = lapack_eigh(matrix)
    return values


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u, s, vh
