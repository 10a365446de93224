"""The loss of the given responses, token by token, without generating anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from flexlora.evaluation.padding import (
    Evaluated,
    batches,
    inference,
    left_pad,
    pad_id,
    supported,
)
from flexlora.tasks.prompts import Encoded


@dataclass(frozen=True)
class ExampleLoss:
    """The summed cross-entropy (nats) of one response, and its number of tokens, EOS included."""

    total: float
    tokens: int


def response_losses(
    model: Evaluated, examples: Sequence[Encoded], *, batch_size: int
) -> tuple[ExampleLoss, ...]:
    """The loss of each response given its prompt, in the given order.

    Only response tokens count, as in training, and logits are made for the last columns alone.
    The batch size changes nothing beyond rounding.
    """
    totals = [0.0] * len(examples)
    with inference(model.model) as device:
        lengths = [len(example.prompt) + len(example.response) for example in examples]
        for chosen in batches(lengths, batch_size):
            rows = [examples[i] for i in chosen]
            for i, total in zip(chosen, _totals(model, rows, device), strict=True):
                totals[i] = total
    counts = [len(example.response) for example in examples]
    return tuple(map(ExampleLoss, totals, counts))


def _totals(model: Evaluated, rows: Sequence[Encoded], device: torch.device) -> list[float]:
    batch = left_pad([row.prompt + row.response for row in rows], pad_id(model.tokenizer), device)
    counts = torch.tensor([len(row.response) for row in rows], device=device)
    width = int(counts.max())
    options = supported(model.model, position_ids=batch.positions, logits_to_keep=width + 1)
    logits = model.model(
        input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, **options
    ).logits[:, -width - 1 : -1]
    # Rows end together: the last counts[i] columns of row i are its response.
    counted = torch.arange(width, device=device) >= width - counts[:, None]
    losses = logits.new_zeros(counted.shape, dtype=torch.float32)
    losses[counted] = functional.cross_entropy(
        logits[counted].float(), batch.ids[:, -width:][counted], reduction="none"
    )
    return [float(total) for total in losses.double().sum(dim=1)]
