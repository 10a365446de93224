"""Which examples a client sees in which order, and how they become tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from flexlora.tasks.prompts import Encoded

IGNORED = -100
_WINDOW = 8  # Batches whose examples are sorted by length together.


@dataclass(frozen=True, eq=False)
class Batch:
    """Token sequences padded on the right to the longest.

    labels: what is learnt, unshifted as in transformers; -100 where nothing is.
    """

    input_ids: Int[Tensor, "b t"]
    attention_mask: Int[Tensor, "b t"]
    labels: Int[Tensor, "b t"]
    tokens: int
    learnt: int  # Labels that count: all but the ones at position 0, which nothing predicts.


def plan(
    lengths: Sequence[int],
    batch_size: int,
    epochs: int,
    generator: torch.Generator,
    max_steps: int | None = None,
) -> list[list[int]]:
    """Batches of indices into `lengths` (tokens per example), in the order of training.

    Every epoch holds each example exactly once: shuffled, sorted by length inside windows of a few
    batches (less padding), cut into batches, the batches shuffled again. At most one batch of an
    epoch is smaller than batch_size. `max_steps` cuts the plan. Depends on nothing but the
    arguments and the state of `generator`.
    """
    batches: list[list[int]] = []
    for _ in range(epochs):
        order = torch.randperm(len(lengths), generator=generator).tolist()
        cuts: list[list[int]] = []
        for start in range(0, len(order), _WINDOW * batch_size):
            window = order[start : start + _WINDOW * batch_size]
            window.sort(key=lengths.__getitem__)
            cuts += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
        shuffled = torch.randperm(len(cuts), generator=generator).tolist()
        batches += [cuts[i] for i in shuffled]
        if max_steps is not None and len(batches) >= max_steps:
            return batches[:max_steps]
    return batches


def collate(
    examples: Sequence[Encoded],
    pad: int,
    *,
    loss_on: str = "response",
    device: torch.device | str = "cpu",
) -> Batch:
    """Pad prompt + response of each example on the right to the longest of them.

    loss_on "response": labels on the response alone; "all": on prompt and response.
    """
    longest = max(len(x.prompt) + len(x.response) for x in examples)
    ids, mask, labels = [], [], []
    tokens = learnt = 0
    for x in examples:
        whole = (*x.prompt, *x.response)
        hidden = len(x.prompt) if loss_on == "response" else 0
        rest = longest - len(whole)
        ids.append(whole + (pad,) * rest)
        mask.append((1,) * len(whole) + (0,) * rest)
        labels.append((IGNORED,) * hidden + whole[hidden:] + (IGNORED,) * rest)
        tokens += len(whole)
        learnt += len(whole) - max(hidden, 1)
    return Batch(
        torch.tensor(ids, device=device),
        torch.tensor(mask, device=device),
        torch.tensor(labels, device=device),
        tokens,
        learnt,
    )
