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
    batches_alike,
    inference,
    left_pad,
    pad_id,
)
from flexlora.evaluation.reading import reading_of
from flexlora.evaluation.together import read_together, together_of
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
    alone. What rows of a batch begin with alike is computed once where the model can be read so
    (`together_of`). The batch size changes nothing beyond rounding. owners: of the rows, where the
    model carries adapters. Raises ModelError for a model that cannot be read (see `reading_of`).
    """
    if not rows:
        return ()
    totals, ends = [0.0] * len(rows), [0.0] * len(rows)
    equal, together = not reading_of(model).beside, together_of(model)
    whole = [(*prompt, *continuation) for prompt, continuation in rows]
    cut = batches_alike(whole, batch_size, owners) if together else None
    with inference(model.model) as device:
        for chosen in cut or batches(list(map(len, whole)), batch_size, owners, equal=equal):
            these, mine = [rows[i] for i in chosen], owners and owners.of(chosen)
            found = (
                _totals_together(model, these, mine)
                if together
                else _totals(model, these, mine, device)
            )
            for i, (total, end) in zip(chosen, found, strict=True):
                totals[i], ends[i] = total, end
    counts = [len(continuation) for _, continuation in rows]
    return tuple(map(ExampleLoss, totals, counts, ends))


def _totals(
    model: Evaluated,
    rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    owners: Owners | None,
    device: torch.device,
) -> list[tuple[float, float]]:
    """Of each row, all of it and its last token."""
    if owners is not None:
        owners.share(range(len(rows)))
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
    losses = losses.cpu()  # mps has no float64.
    totals, ends = losses.double().sum(dim=1), losses[:, -1]
    return list(zip(totals.tolist(), ends.tolist(), strict=True))


def _totals_together(
    model: Evaluated,
    rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    owners: Owners | None,
) -> list[tuple[float, float]]:
    """The same, without padding. A row's last token is asked for and never read."""
    ids = [prompt + continuation[:-1] for prompt, continuation in rows]
    firsts = [len(prompt) - 1 for prompt, _ in rows]
    totals = []
    for logits, (_, continuation) in zip(
        read_together(model, ids, firsts, owners=owners).logits, rows, strict=True
    ):
        wanted = torch.tensor(continuation, dtype=torch.long, device=logits.device)
        losses = functional.cross_entropy(
            logits[: len(wanted)].float(), wanted, reduction="none"
        ).double()
        totals.append((float(losses.sum()), float(losses[-1:].sum())))
    return totals
