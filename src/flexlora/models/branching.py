"""Sequences packed in one row of which some go on from others: what they share is there once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flexlora.models.packing import Attend, Over, alike, asked, joined, packed, told, trial_ids

_PATHS = ((), (0,), (0,), (0, 2))  # Of a trial's pieces: two ends, and one of them in two.
_LENGTHS = (4, 3, 1, 2)
_ROWS = ((0, 1), (0, 2, 3))  # The sequences that end in them.


def branching(paths: Sequence[Sequence[int]]) -> Over:
    """For `packed`: piece k of the row goes on from paths[k], earlier pieces, from the first on."""
    return partial(_along, paths=paths)


def can_branch(model: Any) -> bool:
    """Whether sequences that share pieces come out as they do one by one; of a model that packs."""
    ids = trial_ids(model, sum(_LENGTHS))
    pieces = torch.split(ids, list(_LENGTHS))
    starts = [sum(_LENGTHS[k] for k in path) for path in _PATHS]
    positions = [torch.arange(s, s + n) for s, n in zip(starts, _LENGTHS, strict=True)]
    with torch.no_grad():
        apart = [
            model(input_ids=torch.cat([pieces[k] for k in row])[None], use_cache=False).logits
            for row in _ROWS
        ]
        with packed(model, _LENGTHS, branching(_PATHS)), told():
            together = model(
                input_ids=ids[None],
                position_ids=torch.cat(positions)[None].to(ids.device),
                use_cache=False,
            ).logits
    found = torch.split(together, list(_LENGTHS), dim=1)
    return all(
        alike(torch.cat([found[k] for k in row], dim=1), wanted)
        for row, wanted in zip(_ROWS, apart, strict=True)
    )


def _along(
    row: Sequence[Tensor],
    lengths: Sequence[int],
    attend: Attend,
    places: Tensor | None = None,
    *,
    paths: Sequence[Sequence[int]],
) -> Tensor:
    """A call for each piece: its queries see the pieces before it, and itself causally."""
    if places is not None:
        return asked(row, lengths, attend, places, paths)
    queries, keys, values = (torch.split(x, list(lengths), dim=2) for x in row)
    found = []
    for k, before in enumerate(paths):
        if not before:
            found.append(attend(queries[k], keys[k], values[k]))
            continue
        key, value = joined(keys, (*before, k)), joined(values, (*before, k))
        own = torch.arange(key.shape[2] - lengths[k], key.shape[2], device=key.device)
        found.append(attend(queries[k], key, value, own))
    return torch.cat(found, dim=2)
