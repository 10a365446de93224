"""The one entry to truncation: the path follows from shapes and the tolerance, never from clocks.

exact         the inner width, or min(m, n), is small beside the rank: through float64 Gram matrices
formed        one matrix product, then block Lanczos on what it gives
implicit      block Lanczos on the factors, where that is fewer operations than forming
exact again   where Lanczos did not settle, or will not: a flat spectrum (noise) has no few largest
              directions. A randomised SVD of a few passes is faster there, and percents off
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from flexlora.lowrank.exact import best, count_above_rounding, tamed
from flexlora.lowrank.krylov import Operator
from flexlora.lowrank.lanczos import FAILURE, Found, lanczos, room
from flexlora.lowrank.lowrank import Dense, LowRank, Matrix
from flexlora.lowrank.spectrum import Certificate, Truncation

Path = Literal["exact", "formed", "implicit"]
TOLERANCE = 1e-5
# Up to so many columns an exact decomposition costs less than the passes of Lanczos.
_SMALL = 512
_SMALL_IN_RANKS = 5
# What Lanczos takes: products with about so many columns there and back (in ranks), each at half
# the speed of the one large product that forms the matrix.
_COLUMNS_IN_RANKS = 6
_NARROW_COST = 2
_LARGEST_BASIS = 0.5  # Of the shorter side: a wider one costs more than an exact decomposition.
_ROWS = 256


def truncate(
    matrix: Matrix,
    rank: int,
    generator: torch.Generator,
    *,
    tolerance: float = TOLERANCE,
    path: Path | None = None,
) -> Truncation:
    """An approximation of at most this rank, as near as the best one within `tolerance`.

    matrix: float32 or float64. tolerance: (‖matrix − kept‖ − least) / least in Frobenius norm,
    `least` being that of the best approximation. On the iterated paths that is where passes stop,
    by extrapolation; it is not proved, but kept to on hundreds of spectra made against it. Where
    singular values stand so close together, or the tail is so flat, that it cannot be trusted, the
    exact path takes over: then `truncate` takes up to twice as long as that alone, and the
    certificate says "exact". 0 asks for the exact path. path: for comparisons; None leaves the
    choice to the shapes.

    Guarantees: as the certificate says. u and vh are orthonormal to float32 (1e-5), values descend,
    the same input gives the same bits on a CPU with the same number of threads.
    Raises ValueError for a negative rank, NaN or infinity.
    """
    if rank < 0:
        raise ValueError(f"rank is {rank}; give 0 or more")
    width = matrix.width if isinstance(matrix, LowRank) else None
    rank = min(rank, *matrix.shape)
    chosen = path or choose_path(matrix.shape, width, rank, tolerance)
    if chosen == "exact" or rank == 0:
        return best(matrix, rank)
    try:
        return _iterated(matrix, rank, generator, tolerance, chosen)
    except ArithmeticError:
        # Too large or too small for float32 on the way, or not finite at all, which `tamed` says.
        sized, exponent = tamed(matrix)
    try:
        again = _iterated(sized, rank, generator, tolerance, chosen)
    except ArithmeticError:  # It cancels to nothing.
        again = best(sized, rank)
    return again.scaled(exponent)


def _iterated(
    matrix: Matrix,
    rank: int,
    generator: torch.Generator,
    tolerance: float,
    path: Path,
) -> Truncation:
    """`truncate` by Lanczos. Raises ArithmeticError where products leave the range of the dtype."""
    if path == "formed" and isinstance(matrix, LowRank):
        matrix = Dense(matrix.dense(), matrix.magnitude())
    operator = _operator(matrix)
    settled = lanczos(
        operator,
        rank,
        generator,
        tolerance=tolerance,
        largest_basis=int(_LARGEST_BASIS * min(operator.shape)),
    )
    if settled is None:
        return best(matrix, rank)
    return _certified(matrix, settled)


def _certified(matrix: Matrix, found: Found) -> Truncation:
    """What settled, less what is rounding, with what is known of the rest."""
    magnitude = matrix.magnitude() if isinstance(matrix, LowRank) else matrix.magnitude
    kept = found.spectrum.truncate(count_above_rounding(found.spectrum.s, magnitude)).kept
    if isinstance(matrix, Dense):
        error = _distance(matrix, kept.low_rank())
        certificate = Certificate("exact-energy", error, error)
    else:
        certificate = Certificate("probabilistic", math.sqrt(found.energy), found.spectral, FAILURE)
    return Truncation(kept, certificate)


def choose_path(
    shape: tuple[int, int], width: int | None, rank: int, tolerance: float = TOLERANCE
) -> Path:
    """The path that `truncate` takes. width: the inner width of a factored matrix; None: dense."""
    small = max(_SMALL, _SMALL_IN_RANKS * rank)
    if min(shape) * _LARGEST_BASIS < room(rank):  # It could only fail to settle.
        return "exact"
    if tolerance <= 0.0 or min(*shape, *(() if width is None else (width,))) <= small:
        return "exact"
    if width is None:
        return "formed"
    return "implicit" if _implicit_is_cheaper(*shape, width, rank) else "formed"


def _implicit_is_cheaper(m: int, n: int, width: int, rank: int) -> bool:
    columns = _NARROW_COST * _COLUMNS_IN_RANKS * rank
    return columns * width * (m + n) < m * n * width + columns * m * n


def _operator(matrix: Matrix) -> Operator:
    if isinstance(matrix, Dense):
        dense = matrix.matrix
        return Operator(lambda x: dense @ x, lambda y: dense.T @ y, matrix.shape, dense)
    left, right = matrix.left, matrix.right
    return Operator(
        lambda x: left @ (right @ x), lambda y: right.T @ (left.T @ y), matrix.shape, left
    )


def _distance(matrix: Dense, kept: LowRank) -> float:
    """‖matrix − kept‖_F, a few rows at a time: a difference of energies would cancel."""
    total, (m, n) = 0.0, matrix.shape
    held = kept.left.new_empty(min(m, _ROWS), n)
    for begin in range(0, m, _ROWS):
        rows = slice(begin, min(m, begin + _ROWS))
        out = held[: rows.stop - begin]
        rest = torch.addmm(matrix.matrix[rows], kept.left[rows], kept.right, alpha=-1.0, out=out)
        total += float(torch.linalg.vector_norm(rest, dim=1).double().square().sum())
    return math.sqrt(total)
