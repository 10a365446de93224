"""Sequences packed in one row of which some go on from others: what they share is there once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from flexlora.models.packing import Attend, Over


def branching(paths: Sequence[Sequence[int]]) -> Over:
    """For `packed`: piece k of the row goes on from paths[k], earlier pieces, from the first on."""
    return partial(_along, paths=paths)


def _along(
    row: Sequence[Tensor],
    lengths: Sequence[int],
    attend: Attend,
    *,
    paths: Sequence[Sequence[int]],
) -> Tensor:
    """A call for each piece: its queries see the pieces before it, and itself causally."""
    queries, keys, values = (torch.split(x, list(lengths), dim=2) for x in row)
    found = []
    for k, before in enumerate(paths):
        if not before:
            found.append(attend(queries[k], keys[k], values[k]))
            continue
        key = torch.cat([keys[j] for j in (*before, k)], dim=2)
        value = torch.cat([values[j] for j in (*before, k)], dim=2)
        places = torch.arange(key.shape[2] - lengths[k], key.shape[2], device=key.device)
        found.append(attend(queries[k], key, value, places))
    return torch.cat(found, dim=2)
