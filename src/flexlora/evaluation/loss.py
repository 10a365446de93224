"""The loss of given responses and choices, token by token, without generating anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from flexlora.evaluation.owners import Owners
from flexlora.evaluation.padding import (
    Evaluated,
    batches,
    inference,
    left_pad,
    pad_id,
)
from flexlora.evaluation.reading import reading_of
from flexlora.tasks.prompts import Encoded


@dataclass(frozen=True)
class ExampleLoss:
    """The summed cross-entropy (nats) of one response or choice, and its tokens, with the one that
    ends it: EOS, or a chat template's end of the turn.

    end: the part of that last token.
    """

    total: float
    tokens: int
    end: float


def response_losses(
    model: Evaluated, examples: Sequence[Encoded], *, batch_size: int
) -> tuple[ExampleLoss, ...]:
    """The loss of each response given its prompt, in the given order; see `continuation_losses`."""
    rows = [(example.prompt, example.response) for example in examples]
    return continuation_losses(model, rows, batch_size=batch_size)


def continuation_losses(
    model: Evaluated,
    rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    *,
    batch_size: int,
    owners: Owners | None = None,
) -> tuple[ExampleLoss, ...]:
    """The loss of each (prompt, continuation), in the given order.

    Only the continuation's tokens count, as in training, and logits are made for the last columns
    alone. The batch size changes nothing beyond rounding. owners: of the rows, where the model
    carries adapters. Raises ModelError for a model that cannot be read (see `reading_of`).
    """
    totals, ends = [0.0] * len(rows), [0.0] * len(rows)
    equal = bool(rows) and not reading_of(model).beside
    with inference(model.model) as device:
        lengths = [len(prompt) + len(continuation) for prompt, continuation in rows]
        for chosen in batches(lengths, batch_size, owners, equal=equal):
            if owners is not None:
                owners.share(chosen)
            found = _totals(model, [rows[i] for i in chosen], device)
            for i, (total, end) in zip(chosen, found, strict=True):
                totals[i], ends[i] = total, end
    counts = [len(continuation) for _, continuation in rows]
    return tuple(map(ExampleLoss, totals, counts, ends))


def _totals(
    model: Evaluated,
    rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    device: torch.device,
) -> list[tuple[float, float]]:
    """Of each row, all of it and its last token."""
    ids = [prompt + continuation for prompt, continuation in rows]
    batch = left_pad(ids, pad_id(model.tokenizer), device)
    counts = torch.tensor([len(continuation) for _, continuation in rows], device=device)
    width = int(counts.max())
    logits = reading_of(model).logits(model.model, batch, width + 1)[:, -width - 1 : -1]
    # Rows end together: the last counts[i] columns of row i are its continuation.
    counted = torch.arange(width, device=device) >= width - counts[:, None]
    losses = logits.new_zeros(counted.shape, dtype=torch.float32)
    losses[counted] = functional.cross_entropy(
        logits[counted].float(), batch.ids[:, -width:][counted], reduction="none"
    )
    totals, ends = losses.double().sum(dim=1), losses[:, -1]
    return list(zip(totals.tolist(), ends.tolist(), strict=True))
