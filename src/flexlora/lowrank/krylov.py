"""A matrix known by its products, and an orthonormal basis of what they have shown of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flexlora.lowrank.gram import gram
from flexlora.lowrank.lapack import lapack_eigh

_DEPENDENT = 1e-4  # A column this near to the span of the others is taken out with care.


@dataclass(frozen=True, eq=False)
class Operator:
    """A matrix (m, n) known by its products: `ahead` takes (n, k) to (m, k), `back` returns."""

    ahead: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    shape: tuple[int, int]
    like: Tensor  # Of the dtype and device that the products have.


@dataclass(frozen=True, eq=False)
class Basis:
    """Orthonormal columns `left` (m, q), `back` = matrixᵀ left in float64, `squared` = backᵀ back.

    Columns that depended on others are zero in both.
    """

    matrix: Operator
    left: Tensor
    back: Tensor
    squared: Tensor

    @staticmethod
    def empty(matrix: Operator) -> Basis:
        (m, n), like = matrix.shape, matrix.like
        back = like.new_zeros(n, 0, dtype=torch.float64)
        return Basis(matrix, like.new_zeros(m, 0), back, back.new_zeros(0, 0))

    @property
    def columns(self) -> int:
        return self.left.shape[1]

    def outside(self, y: Tensor) -> Tensor:
        """The part of y that is orthogonal to this basis, once: twice is enough."""
        return y - self.left @ (self.left.T @ y)

    def extended(self, y: Tensor) -> Basis:
        """The basis with the directions of y, which is `outside` it but for rounding."""
        y = orthonormal(self.outside(orthonormal(y)))
        back = self.matrix.back(y).double()
        across = self.back.T @ back
        squared = bordered(self.squared, across, back.T @ back)
        left, right = torch.cat([self.left, y], dim=1), torch.cat([self.back, back], dim=1)
        return Basis(self.matrix, left, right, squared)


def bordered(corner: Tensor, across: Tensor, other: Tensor) -> Tensor:
    """The symmetric matrix [[corner, across], [acrossᵀ, other]]."""
    above, below = torch.cat([corner, across], dim=1), torch.cat([across.T, other], dim=1)
    return torch.cat([above, below], dim=0)


def gaussian(shape: tuple[int, int], generator: torch.Generator, like: Tensor) -> Tensor:
    drawn = torch.randn(*shape, generator=generator, dtype=like.dtype)
    return drawn.to(like.device)


def filled(tall: Tensor, generator: torch.Generator) -> Tensor:
    """`orthonormal`, with random columns in place of those that depended on others."""
    found = orthonormal(tall)
    live = found.abs().amax(dim=0, keepdim=True) > 0.0
    if bool(live.all()):
        return found
    fresh = gaussian((tall.shape[0], tall.shape[1]), generator, tall)
    fresh = fresh - found @ (found.T @ fresh)
    return orthonormal(torch.where(live, found, fresh))


def orthonormal(tall: Tensor) -> Tensor:
    """Orthonormal columns of the same span; zero columns in place of those that depend on others.

    Cholesky of the float64 Gram matrix, or its eigenvectors where columns are nearly dependent
    (Stathopoulos and Wu, SIAM J. Sci. Comput. 23, 2002).
    """
    squared = gram(tall)
    lengths = squared.diagonal().sqrt()
    scale = torch.where(lengths > 0.0, 1.0 / lengths, 0.0)[:, None]
    squared = scale * squared * scale.T
    root, failed = torch.linalg.cholesky_ex(squared)
    if not bool(failed) and float(root.diagonal().min()) > _DEPENDENT:
        identity = torch.eye(root.shape[0], dtype=root.dtype, device=root.device)
        turns = torch.linalg.solve_triangular(root, identity, upper=False).T
    else:
        squares, turns = lapack_eigh(squared)
        real = squares > _DEPENDENT**2 * squares[-1]
        turns = turns * torch.where(real, squares.clamp_min(0.0).rsqrt(), 0.0)
    change: Tensor = scale * turns
    return tall @ change.to(tall.dtype)
