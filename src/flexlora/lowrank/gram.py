"""Singular triplets through float64 Gram matrices: the fastest exact route, and where it holds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from flexlora.lowrank.lapack import lapack_eigh

# A Gram matrix squares the spectrum: a direction 1e-4 of the largest is 1e-8 there, which float64
# still holds to 1e-8 of itself. Below that the routes that do not square take over.
LEAST_RATIO = 1e-4
_ROWS = 1024  # Rows that are brought to float64 at a time.
_EPS = torch.finfo(torch.float64).eps


def gram(tall: Float[Tensor, "m r"]) -> Float[Tensor, "r r"]:
    """tallᵀ tall in float64, a few rows at a time; symmetric to the last bit, whatever the kernel.

    A kernel may add up (i, j) in another order than (j, i), so one triangle is multiplied out (but
    for blocks on the diagonal) and stands for both.
    """
    r = tall.shape[1]
    found = torch.zeros(r, r, dtype=torch.float64, device=tall.device)
    parts = 4 if r >= 256 else 1
    edges = [r * i // parts for i in range(parts + 1)]
    for rows in _few_rows(tall):
        exact = rows.double()
        for begin, end in pairwise(edges):
            found[begin:, begin:end].addmm_(exact[:, begin:].T, exact[:, begin:end])
    for begin, end in pairwise(edges):
        own = found[begin:end, begin:end].tril_()
        own.add_(own.tril(-1).T)
        found[begin:end, end:] = found[end:, begin:end].T
    return found


class FactoredGram:
    """σ and both sides of `left @ right` from LᵀL and AAᵀ (r × r), never forming m × n.

    With AAᵀ = CCᵀ and W Σ² Wᵀ the eigenvectors of Cᵀ(LᵀL)C: U = L C W / Σ, V = Aᵀ (LᵀL) C W / Σ².
    Everything small is float64, whose range also holds factors of 1e±30.
    """

    def __init__(self, left: Float[Tensor, "m r"], right: Float[Tensor, "r n"]) -> None:
        self._left, self._right = left, right
        self.shape = left.shape[0], right.shape[1]
        lengths_left, lengths_right = gram(left), gram(right.T)
        energies = lengths_left.diagonal() * lengths_right.diagonal()
        self.finite = bool(torch.isfinite(energies).all())
        self.magnitude = float(energies.sum().sqrt())
        self.values = energies.new_zeros(0)
        if not self.finite or self.magnitude == 0.0:
            return
        # Pairs are brought to one length on both sides, by powers of two: exact, and it keeps the
        # small directions of uneven factors out of the rounding of the large ones.
        even, inverse = _evened(lengths_left.diagonal(), lengths_right.diagonal())
        lengths_left.mul_(even[:, None]).mul_(even)
        lengths_right.mul_(inverse[:, None]).mul_(inverse)
        shift = len(even) * _EPS * lengths_right.diagonal().max()
        lengths_right.diagonal().add_(shift)
        root, failed = torch.linalg.cholesky_ex(lengths_right)
        del lengths_right
        if int(failed):
            self.finite = False
            return
        squares, turns = lapack_eigh(root.T @ (lengths_left @ root))
        self.values = squares.flip(0).clamp_min(0.0).sqrt()
        self._turned = root @ turns.flip(1)
        self._even, self._inverse, self._lengths_left = even, inverse, lengths_left

    def sides(self, rank: int) -> tuple[Tensor, Tensor]:
        """u (m, rank) and vh (rank, n) of the largest `rank` values."""
        s, turned = self.values[:rank], self._turned[:, :rank]
        u = _times(self._left, self._even[:, None] * (turned / s))
        across = self._lengths_left @ (turned / s.square())
        return u, _times(self._right.T, self._inverse[:, None] * across).T.contiguous()


class DenseGram:
    """σ and both sides of a dense matrix from the Gram matrix of its shorter side."""

    def __init__(self, matrix: Float[Tensor, "m n"]) -> None:
        self.shape = matrix.shape[0], matrix.shape[1]
        self._wide = matrix.shape[0] <= matrix.shape[1]
        self._tall = matrix.T if self._wide else matrix
        squared = gram(self._tall)
        self.finite = bool(torch.isfinite(squared.diagonal()).all())
        self.values = squared.new_zeros(0)
        if self.finite:
            squares, turns = lapack_eigh(squared)
            self.values = squares.flip(0).clamp_min(0.0).sqrt()
            self._turns = turns.flip(1)

    def sides(self, rank: int) -> tuple[Tensor, Tensor]:
        """u (m, rank) and vh (rank, n) of the largest `rank` values."""
        turns = self._turns[:, :rank]
        other = _times(self._tall, turns / self.values[:rank])
        short = turns.to(self._tall.dtype)
        u, v = (short, other) if self._wide else (other, short)
        return u.contiguous(), v.T.contiguous()


def _evened(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Powers of two d with d² · left ≈ right / d², and 1/d; both 0 where either side is zero."""
    both = (left > 0.0) & (right > 0.0)
    ratio = torch.where(both, right, 1.0).log2() - torch.where(both, left, 1.0).log2()
    exponent = (ratio / 4.0).round()
    return torch.where(both, exponent.exp2(), 0.0), torch.where(both, (-exponent).exp2(), 0.0)


def _times(tall: Tensor, small: Tensor) -> Tensor:
    """tall @ small in float64, a few rows at a time, in the dtype of `tall`."""
    return torch.cat([(rows.double() @ small).to(tall.dtype) for rows in _few_rows(tall)])


def _few_rows(tall: Tensor) -> Iterator[Tensor]:
    for begin in range(0, max(1, tall.shape[0]), _ROWS):
        yield tall[begin : begin + _ROWS]
