"""Batches of token rows that end together, and what a model's forward takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from flexlora.evaluation.owners import Owners


class Evaluated(Protocol):
    """What evaluation needs of a model: the module, its tokenizer, its context in tokens."""

    @property
    def model(self) -> Any: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def context(self) -> int: ...


@dataclass(frozen=True, eq=False)
class LeftPadded:
    """Left-padded rows: ids, mask and positions, each (rows, tokens), int64."""

    ids: Tensor
    mask: Tensor
    positions: Tensor


def left_pad(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> LeftPadded:
    """Pad at the left, so that all rows end in the last column."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return LeftPadded(ids, mask, (mask.cumsum(1) - 1).clamp(min=0))


def batches(
    lengths: Sequence[int], size: int, owners: Owners | None = None, *, equal: bool = False
) -> Iterator[list[int]]:
    """Indices in batches of at most `size`, longest first: similar lengths share a batch.

    The longest batch comes first, so that what does not fit into memory fails at once. Inside a
    batch, rows come owner by owner where they have owners. equal: all rows of a batch are as long.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups = [list(g) for _, g in groupby(order, lengths.__getitem__)] if equal else [order]
    for group in groups:
        for start in range(0, len(group), size):
            batch = group[start : start + size]
            yield batch if owners is None else sorted(batch, key=owners.places.__getitem__)


def batches_alike(
    rows: Sequence[Sequence[int]], size: int, owners: Owners | None = None
) -> list[list[int]]:
    """Indices in batches of at most `size`, owner by owner, where rows that begin alike meet.

    The batch of the most tokens comes first, as in `batches`.
    """
    places = [0] * len(rows) if owners is None else owners.places
    order = sorted(range(len(rows)), key=lambda i: (places[i], tuple(rows[i])))
    found = [order[start : start + size] for start in range(0, len(order), size)]
    return sorted(found, key=lambda batch: -sum(len(rows[i]) for i in batch))


def pad_id(tokenizer: Any) -> int:
    """A token id for masked places; its value never matters."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def supported(model: Any, **options: Any) -> dict[str, Any]:
    """Those options that the model's forward knows by name (not every architecture has all)."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = inspect.signature(base.forward).parameters
    return {name: value for name, value in options.items() if name in known}


@contextmanager
def inference(model: Any) -> Iterator[torch.device]:
    """Evaluation mode without gradients; the module's training mode comes back afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield next(model.parameters()).device
    finally:
        model.train(training)
