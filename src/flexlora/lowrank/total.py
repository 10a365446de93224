"""A weighted sum of factored matrices that are read one after another."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from flexlora.lowrank.lowrank import Dense, LowRank, Matrix
from flexlora.lowrank.truncate import choose_path

_CHUNK = 4096  # Columns that are multiplied out at a time: a product of few is slow.


def total(
    parts: Iterable[tuple[float, LowRank]],
    shape: tuple[int, int],
    width: int,
    rank: int | None = None,
) -> Matrix:
    """Σ weight · part, in the form from which `truncate` to this rank is cheapest.

    width: the inner widths of all parts together. rank: None for the form that is smaller.
    The sum stays factored, in one place each side, or is multiplied out as parts come; either way
    a part is read once and not held, so memory is the result's and a chunk's, whatever the number.
    float32, or float64 if the first part is.
    Raises ValueError for parts of another shape, or of another width in all.
    """
    gathered = _Gathered(shape, width) if _stays(shape, width, rank) else _Formed(shape, width)
    seen = 0
    for weight, part in parts:
        if part.shape != shape:
            raise ValueError(f"total of {shape} got a part of shape {part.shape}")
        seen += part.width
        if seen > width:
            break
        gathered.add(weight, part)
    if seen != width:
        raise ValueError(f"total got parts of width {seen}, expected {width} in all")
    return gathered.result()


def _stays(shape: tuple[int, int], width: int, rank: int | None) -> bool:
    m, n = shape
    if rank is None:
        return width * (m + n) < m * n
    if width < min(shape):
        return True
    return choose_path(shape, width, rank) == "implicit"


class _Gathered:
    """Both factors, filled from left to right."""

    def __init__(self, shape: tuple[int, int], width: int) -> None:
        self._shape, self._width, self._filled = shape, width, 0
        self._left: Tensor | None = None
        self._right = torch.zeros(0)

    def add(self, weight: float, part: LowRank) -> None:
        if self._left is None:
            self._left = part.left.new_empty(self._shape[0], self._width)
            self._right = part.right.new_empty(self._width, self._shape[1])
        place = slice(self._filled, self._filled + part.width)
        torch.mul(part.left, weight, out=self._left[:, place])
        self._right[place] = part.right
        self._filled += part.width

    def result(self) -> Matrix:
        if self._left is None:
            return LowRank.zero(*self._shape)
        return LowRank(self._left, self._right)


class _Formed:
    """The matrix itself, a chunk of columns at a time."""

    def __init__(self, shape: tuple[int, int], width: int) -> None:
        self._shape, self._chunk = shape, min(width, _CHUNK)
        self._filled, self._squared, self._begun = 0, 0.0, False
        self._matrix: Tensor | None = None
        self._left = self._right = torch.zeros(0)

    def add(self, weight: float, part: LowRank) -> None:
        if self._matrix is None:
            m, n = self._shape
            self._matrix = part.left.new_empty(m, n)
            self._left = part.left.new_empty(m, self._chunk)
            self._right = part.left.new_empty(self._chunk, n)
        begin = 0
        while begin < part.width:
            end = min(part.width, begin + self._chunk - self._filled)
            place = slice(self._filled, self._filled + end - begin)
            self._left[:, place] = part.left[:, begin:end]
            # Weighted on this side, whose rows lie together: one pass, and not over short strides.
            torch.mul(part.right[begin:end], weight, out=self._right[place])
            self._filled, begin = place.stop, end
            if self._filled == self._chunk:
                self._flush()

    def result(self) -> Matrix:
        if self._matrix is None:
            return LowRank.zero(*self._shape)
        self._flush()
        return Dense(self._matrix, math.sqrt(self._squared))

    def _flush(self) -> None:
        assert self._matrix is not None
        chunk = LowRank(self._left[:, : self._filled], self._right[: self._filled])
        known = 1.0 if self._begun else 0.0  # Times what is there: at first nothing.
        self._matrix.addmm_(chunk.left, chunk.right, beta=known)
        self._squared += chunk.magnitude() ** 2
        self._filled, self._begun = 0, True
