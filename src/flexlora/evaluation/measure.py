"""What metrics are made of, measured once for all of them: losses, generated texts, choices."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flexlora.evaluation.generate import generate
from flexlora.evaluation.loss import ExampleLoss, continuation_losses
from flexlora.evaluation.metric import ChoiceLoss, Need
from flexlora.evaluation.owners import Owners
from flexlora.evaluation.padding import Evaluated
from flexlora.tasks.prompts import Encoded

# Of whose adapter, prompt, continuation.
Losses = Mapping[tuple[int, tuple[int, ...], tuple[int, ...]], ExampleLoss]


def measure(
    model: Evaluated,
    examples: Sequence[Encoded],
    needs: Collection[Need],
    *,
    batch_size: int,
    max_new_tokens: int,
    owners: Owners | None = None,
) -> dict[Need, Sequence[Any]]:
    """Need → what was found for each example, in order; nothing but the needs is computed.

    owners: of the examples, where the model carries adapters. A loss that several ask of the same
    adapter (the right choice is the response) is computed once.
    """
    found: dict[Need, Sequence[Any]] = {}
    places = [0] * len(examples) if owners is None else owners.places
    asked = list(zip(places, examples, strict=True))
    wanted = [(k, e.prompt, e.response) for k, e in asked if "loss" in needs]
    wanted += [(k, e.prompt, c) for k, e in asked if "choices" in needs for c in e.choices]
    rows = list(dict.fromkeys(wanted))
    computed = continuation_losses(
        model,
        [(prompt, continuation) for _, prompt, continuation in rows],
        batch_size=batch_size,
        owners=owners and replace(owners, places=[place for place, *_ in rows]),
    )
    losses = dict(zip(rows, computed, strict=True))
    if "loss" in needs:
        found["loss"] = [losses[place, e.prompt, e.response] for place, e in asked]
    if "choices" in needs:
        found["choices"] = [_choices(model, place, e, losses) for place, e in asked]
    if "text" in needs:
        found["text"] = generate(
            model,
            [example.prompt for example in examples],
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            owners=owners,
            ends=[example.response[-1:] for example in examples],
        )
    return found


def _choices(
    model: Evaluated, place: int, example: Encoded, losses: Losses
) -> tuple[ChoiceLoss, ...]:
    # Without the token that ends it, and as the tokenizer reads it back; an empty text counts as
    # one byte.
    sizes = (
        len(model.tokenizer.decode(choice[:-1], clean_up_tokenization_spaces=False).encode())
        for choice in example.choices
    )
    found = (losses[place, example.prompt, choice] for choice in example.choices)
    return tuple(
        ChoiceLoss(loss.total, max(1, size), loss.end)
        for loss, size in zip(found, sizes, strict=True)
    )
