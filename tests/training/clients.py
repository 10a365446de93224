"""Unlike clients on one tiny model, made anew for each training."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch

from flexlora.adapters import Adapter, Factors
from flexlora.models import AdaptedModel
from flexlora.training import Recipe, Visit
from models.oracle import encoded, random_adapter, random_model

ATTENTION = {"packed": None, "padded": "eager"}


@cache
def model(
    family: str = "llama", dtype: torch.dtype = torch.float64, attention: str | None = None
) -> AdaptedModel:
    adapted = AdaptedModel(random_model(family, dtype, attention=attention))
    assert adapted.packs == (attention is None)
    return adapted


def allowed(dtype: torch.dtype, attention: str | None) -> float:
    """How far apart two trainings' products may end that add up in other orders, by AdamW.

    A gradient is off by ρ, a hundred roundings of half an eps each; the share ρ / π of normal
    numbers then has another sign, which the first steps are: 2 √(ρ / π) of them, 9e-4 in float32
    and 4e-8 in float64. transformers' eager attention takes its softmax in float32 in any case.
    """
    return 1e-6 if dtype == torch.float64 and attention is None else 1e-3


def mixed(ours: AdaptedModel, rank: int, seed: int) -> Adapter:
    """Ranks from 0 to `rank`, another one in every layer."""
    full = random_adapter(
        ours.layers, rank, seed=seed, scale=2.0 / (seed + 1), dtype=dtype_of(ours)
    )
    return Adapter(
        {
            name: Factors(
                f.b[:, : (at + seed) % (rank + 1)], f.a[: (at + seed) % (rank + 1)], f.scale
            )
            for at, (name, f) in enumerate(full.items())
        }
    )


def dtype_of(ours: AdaptedModel) -> torch.dtype:
    return next(ours.model.parameters()).dtype


ADAMW = Recipe("adamw", 1e-2, 2, epochs=20, max_steps=20, weight_decay=0.1)
# One of each kind: they leave after 20, 4, 20, 7 and 6 steps.
RECIPES = (
    ADAMW,
    replace(ADAMW, max_steps=4, clip_norm=None),
    replace(ADAMW, batch_size=3, learning_rate=3e-3, clip_norm=0.1),
    replace(ADAMW, optimiser="sgd", batch_size=1, learning_rate=0.05, max_steps=7),
    replace(ADAMW, epochs=2, weight_decay=0.0),
)
SIZES = (7, 4, 11, 3, 6)
ALIKE = (0, 20, 30, 0, 0)  # Tokens that a client's prompts begin with: packed, they are there once.


def visits(ours: AdaptedModel, clients: int = 5, **changes: Any) -> list[Visit]:
    return [
        Visit(
            mixed(ours, rank, seed=k),
            encoded(SIZES[k], seed=k, longest=(5, 30, 12, 9, 3)[k], alike=ALIKE[k]),
            replace(RECIPES[k], **changes),
            torch.Generator().manual_seed(100 + k),
        )
        for k, rank in enumerate((3, 1, 4, 2, 8)[:clients])
    ]
