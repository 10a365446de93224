"""The best triplets that a basis holds, and what speaks against their being the largest."""

from __future__ import annotations

from torch import Tensor

from flexlora.lowrank.krylov import Basis, bordered
from flexlora.lowrank.lapack import lapack_eigh, lapack_eigvalsh

_LEAST_SQUARE = 1e-11  # Of the largest: below it directions are rounding, which QR sorts out.
_NEVER_ZERO = 1e-300
_GAP = 0.5  # Of the last value kept, at most, the next one.
_CLUSTER = 2e-2  # Values so near to each other part slowly; gains pause, or shrink too slowly.


class Ritz:
    """The `rank` largest triplets of a basis, from the Gram matrix of matrixᵀ · basis.

    values: (rank,); turns: (q, rank), their left vectors in the basis; per_value: turns / values.
    separate: the next value is far below.
    energy: Σ values²; beyond: that of all else that the basis holds.
    """

    def __init__(self, squared: Tensor, rank: int, width: int) -> None:
        """`width`: columns of a block; so many triplets beyond the rank are looked at, too."""
        squares, turns = lapack_eigh(squared)
        squares, turns = squares.flip(0).clamp_min(0.0), turns.flip(1)
        kept = squares[:rank]
        self.lacks_rank = bool(kept[-1] <= _LEAST_SQUARE * kept[0])
        self.values, self.turns = kept.sqrt(), turns[:, :rank]
        self.per_value = self.turns / self.values.clamp_min(_NEVER_ZERO)
        # What is hidden behind a wide gap shows at the first look.
        self.separate = len(squares) > rank and bool(squares[rank] <= _GAP**2 * kept[-1])
        self.energy, self.beyond = float(kept.sum()), float(squares[rank:].sum())
        self._rank = rank
        self._squares, self._turns = squares[: rank + width], turns[:, : rank + width]

    def residual(self, y: Tensor, x: Tensor, last: Tensor) -> float:
        """‖matrix V − U Σ‖_F, from the next product y = (I − QQᵀ) matrix x of the new block x."""
        share = (x.T.double() @ last) @ self.per_value[-last.shape[1] :]
        return float((y @ share.to(y.dtype)).double().norm())

    def gain(self, looked: Basis) -> float:
        """Energy that the `rank` largest gain by the columns that `looked` has more than the basis.

        A lower bound: of the basis itself only the nearest directions beyond the rank take part.
        """
        held = self._turns.shape[0]
        across = self._turns.T @ looked.squared[:held, held:]
        largest = bordered(self._squares.diag(), across, looked.squared[held:, held:])
        squares = lapack_eigvalsh(largest)[-len(self.values) :]
        return float(squares.clamp_min(0.0).sum()) - self.energy

    def hidden(self, columns: int) -> float:
        """Energy that could be missing where at least so many values stand close together.

        Random columns span only as many directions of one singular value as they are, and those of
        values that are nearly one part too slowly to be told from it. Where so many values stand
        within 2 %, more may, and all that are kept from there on may be as large as the first of
        them. 0 where no such cluster is.
        """
        far = self._squares[columns - 1 :]  # Each of them `columns` − 1 places after its first.
        close = far >= (1.0 - _CLUSTER) ** 2 * self._squares[: len(far)]
        begins = close[: self._rank].nonzero()
        if not len(begins):
            return 0.0
        begin = int(begins[0])
        kept = self._squares[begin : self._rank].clamp_max(far[begin])
        return float((self._squares[begin] - kept).sum())
