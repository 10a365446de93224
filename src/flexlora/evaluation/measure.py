"""What metrics are made of, measured once for all of them: losses, generated texts, choices."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flexlora.evaluation.generate import generate
from flexlora.evaluation.loss import ExampleLoss, continuation_losses
from flexlora.evaluation.metrics import ChoiceLoss, Need
from flexlora.evaluation.padding import Evaluated
from flexlora.tasks.prompts import Encoded

Losses = Mapping[tuple[tuple[int, ...], tuple[int, ...]], ExampleLoss]


def measure(
    model: Evaluated,
    examples: Sequence[Encoded],
    needs: Collection[Need],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> dict[Need, Sequence[Any]]:
    """Need → what was found for each example, in order; nothing but the needs is computed.

    A loss that several ask for (the right choice is the response) is computed once.
    """
    found: dict[Need, Sequence[Any]] = {}
    wanted = [(e.prompt, e.response) for e in examples if "loss" in needs]
    wanted += [(e.prompt, c) for e in examples if "choices" in needs for c in e.choices]
    rows = list(dict.fromkeys(wanted))
    losses = dict(zip(rows, continuation_losses(model, rows, batch_size=batch_size), strict=True))
    if "loss" in needs:
        found["loss"] = [losses[example.prompt, example.response] for example in examples]
    if "choices" in needs:
        found["choices"] = [_choices(model, example, losses) for example in examples]
    if "text" in needs:
        prompts = [example.prompt for example in examples]
        found["text"] = generate(
            model, prompts, batch_size=batch_size, max_new_tokens=max_new_tokens
        )
    return found


def _choices(model: Evaluated, example: Encoded, losses: Losses) -> tuple[ChoiceLoss, ...]:
    # Without its EOS, and as the tokenizer reads it back; an empty text counts as one byte.
    sizes = (
        len(model.tokenizer.decode(choice[:-1], clean_up_tokenization_spaces=False).encode())
        for choice in example.choices
    )
    return tuple(
        ChoiceLoss(losses[example.prompt, choice].total, max(1, size))
        for choice, size in zip(example.choices, sizes, strict=True)
    )
