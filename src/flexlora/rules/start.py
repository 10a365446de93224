"""Whether an adapter that a federation is to begin from fits what it adapts."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from flexlora.errors import AdapterError
from flexlora.lowrank import LowRank
from flexlora.rules.layer import Spec

_NAMED = 5  # Layers that an error lists at most.


def require_fit(spec: Spec, start: Mapping[str, LowRank]) -> None:
    """Raise AdapterError for a layer that the spec lacks, another shape, and what float32 cannot
    hold."""
    shapes = {x.name: (x.m, x.n) for x in spec.layers}
    odd = [name for name in start if name not in shapes]
    if odd:
        named = ", ".join(odd[:_NAMED]) + (f", … ({len(odd)} in all)" if len(odd) > _NAMED else "")
        raise AdapterError(
            f"the start has layers that are not adapted: {named}; add them to model.targets, or "
            "start from an adapter without them"
        )
    for name, matrix in start.items():
        if matrix.shape != shapes[name]:
            (m, n), (wanted_m, wanted_n) = matrix.shape, shapes[name]
            raise AdapterError(
                f"layer {name} of the start is {m} × {n}, expected {wanted_m} × {wanted_n}; "
                "it was made for another base model"
            )
        finite = all(bool(torch.isfinite(x.float()).all()) for x in (matrix.left, matrix.right))
        if not finite or not matrix.norm() <= torch.finfo(torch.float32).max:
            raise AdapterError(
                f"layer {name} of the start holds NaN or infinity in float32; give an adapter of "
                "finite values"
            )
