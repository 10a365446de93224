"""The embedded model, and clients with examples that it can learn."""

from __future__ import annotations

from typing import Any

import torch

from flexlora.models import AdaptedModel, load_model
from flexlora.tasks.prompts import Encoded
from flexlora.training import Recipe, Visit
from models.oracle import random_adapter

_WORDS = "one two three four five six seven eight nine ten red green blue old new big small"


def embedded(**options: Any) -> AdaptedModel:
    """The embedded model, loaded with these options."""
    return AdaptedModel(load_model("tiny", **options), ("attention", "mlp"))


def examples(model: AdaptedModel, count: int, seed: int) -> list[Encoded]:
    """Lists to be repeated, of mixed lengths."""
    found, known = [], _WORDS.split()
    for place in range(count):
        begin = (seed + 3 * place) % len(known)
        words = " ".join(known[begin : begin + 2 + (seed + place) % 4])
        prompt, response = model.tokenizer([f"Say again: {words}", words]).input_ids
        found.append(Encoded(str(place), "", tuple(prompt), tuple(response), (words,)))
    return found


def clients(model: AdaptedModel, count: int = 3, **changes: Any) -> list[Visit]:
    """Of ranks 1, 2, 3, …, with adapters that are small but not zero, and unlike data."""
    recipe = Recipe(**{**_RECIPE, **changes})
    return [
        Visit(
            random_adapter(model.layers, k + 1, seed=k, scale=0.1),
            examples(model, 3 + k, seed=k),
            recipe,
            torch.Generator().manual_seed(k),
        )
        for k in range(count)
    ]


_RECIPE: dict[str, Any] = {
    "optimiser": "adamw",
    "learning_rate": 1e-2,
    "batch_size": 8,  # All that a client holds: its losses can be compared.
    "epochs": 6,
}
