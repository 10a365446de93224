"""Truncation of many layers in one batched call: what a GPU takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flexlora.lowrank import Dense, LowRank, Truncation, truncate
from flexlora.lowrank.lanczos import Operator, lanczos
from flexlora.lowrank.truncate import TOLERANCE, certified, choose_path


def truncate_all(
    matrices: Sequence[LowRank],
    rank: int,
    generator: torch.Generator,
    *,
    starts: Sequence[Tensor | None] | None = None,
    tolerance: float = TOLERANCE,
) -> list[Truncation]:
    """`truncate` for layers of one shape, in one batched call on a GPU; one by one on a CPU.

    On a GPU a kernel for one layer leaves most of it idle, on a CPU batches only cost memory. In a
    batch, widths are padded with zeros to the widest, wide sums are multiplied out, and passes go
    on until every layer has settled. starts: one per matrix; used where all have one of one height.
    Raises ValueError for matrices of different shapes, and as `truncate`.
    """
    shapes = {matrix.shape for matrix in matrices}
    if len(shapes) > 1:
        raise ValueError(f"truncate_all got matrices of different shapes: {sorted(shapes)}")
    given = list(starts) if starts is not None else [None] * len(matrices)
    if len(matrices) > 1 and all(matrix.left.is_cuda for matrix in matrices):
        found = batched(matrices, rank, generator, given, tolerance)
        if found is not None:
            return found
    return [
        truncate(matrix, rank, generator, start=start, tolerance=tolerance)
        for matrix, start in zip(matrices, given, strict=True)
    ]


def batched(
    matrices: Sequence[LowRank],
    rank: int,
    generator: torch.Generator,
    starts: Sequence[Tensor | None],
    tolerance: float,
) -> list[Truncation] | None:
    """None where they are exact by shape, did not settle, or leave the range of the dtype."""
    (m, n), widest = matrices[0].shape, max(matrix.width for matrix in matrices)
    if choose_path((m, n), widest, rank, tolerance) == "exact":
        return None
    formed = torch.stack([matrix.dense() for matrix in matrices])
    known = [start for start in starts if start is not None]
    stacked = len(known) == len(matrices) and len({start.shape for start in known}) == 1
    try:
        settled = lanczos(
            Operator(lambda x: formed @ x, lambda y: formed.mT @ y, tuple(formed.shape), formed),
            rank,
            generator,
            torch.stack(known) if stacked else None,
            tolerance=tolerance,
            largest_basis=max(1, min(m, n) // 2),
        )
    except ArithmeticError:
        return None
    if settled is None:
        return None
    return [
        certified(Dense(dense, matrix.magnitude()), found, exact_energy=True)
        for dense, matrix, found in zip(formed, matrices, settled, strict=True)
    ]
