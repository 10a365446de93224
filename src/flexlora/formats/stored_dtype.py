"""The dtypes that adapters and models are written in, and what one of them cannot hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import torch
from torch import Tensor

from flexlora.adapters import Factors
from flexlora.errors import AdapterError, ConfigError, nearest

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def dtype_named(name: str | None) -> torch.dtype | None:
    """None for None: as it is. Raises ConfigError for a name that is unknown."""
    if name is None:
        return None
    if name not in DTYPES:
        raise ConfigError(f"dtype is '{name}'; {nearest(name, DTYPES)}")
    return DTYPES[name]


def require_held(
    where: str, wanted: Iterable[Tensor], dtype: torch.dtype, *cures: str, why: str = ""
) -> None:
    """Raise AdapterError where this dtype has no finite number for one of these finite values.

    wanted: before they are rounded. where: what would hold them, and why, if that is not plain;
    cures: what helps beside a wider dtype.
    """
    most = torch.finfo(dtype).max
    for values in wanted:
        largest = float(values.abs().max()) if values.numel() else 0.0
        if torch.tensor(largest, dtype=torch.float64).to(dtype).float().isfinite():
            continue
        wider = most < torch.finfo(torch.bfloat16).max
        name = str(dtype).removeprefix("torch.")
        helps = (*(("write it as bfloat16 or float32",) if wider else ()), *cures)
        raise AdapterError(
            f"{where} would hold {largest:.4g}{why}, and {name} holds {most:.6g} at most; "
            f"{', or '.join(helps) or 'train again with a lower learning rate'}"
        )


def require_floats(name: str, factors: Factors) -> None:
    """Raise AdapterError for a layer of numbers that nothing sums: no floats, or of eight bits."""
    for side in (factors.b, factors.a):
        if not side.is_floating_point() or side.element_size() < 2:
            held = str(side.dtype).removeprefix("torch.")
            raise AdapterError(
                f"layer {name} of the adapter holds {held}; give float32, bfloat16 or float16"
            )
