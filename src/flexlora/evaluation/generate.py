"""Greedy generation in batches.

An own loop over the key-value cache rather than `model.generate`: rows that are done leave the
batch, and each row stops at its own limit. Token for token it does what `model.generate` does
(its slow twin in the tests) with `do_sample=False` and a `GenerationConfig` that names nothing but
how a text ends: what else a model's own may ask for (a repetition penalty, forbidden words, beams)
is not done, for a score is of the model and not of its settings.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from flexlora.errors import DataError
from flexlora.evaluation.owners import Owners
from flexlora.evaluation.padding import (
    Evaluated,
    batches,
    inference,
    left_pad,
    pad_id,
    supported,
)


def generate(
    model: Evaluated,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    max_new_tokens: int,
    owners: Owners | None = None,
    ends: Collection[int] = (),
) -> tuple[str, ...]:
    """Continue each prompt greedily; texts without special tokens, stripped, in the given order.

    A row stops at EOS or at one of `ends` (what else ends a turn), after `max_new_tokens`, or where
    the model's context is full. Neither the batch size nor the other prompts change a text, but for
    ties of the argmax within rounding.
    owners: of the prompts, where the model carries adapters.
    Raises DataError for an empty prompt and for one that fills the context.
    """
    limits = []
    for i, prompt in enumerate(prompts):
        if not 0 < len(prompt) < model.context:
            raise DataError(
                f"prompt {i} has {len(prompt)} tokens, and the model's context is {model.context}; "
                "encode with a smaller max_tokens, and at least one prompt token"
            )
        limits.append(min(max_new_tokens, model.context - len(prompt)))
    texts = [""] * len(prompts)
    with inference(model.model) as device:
        for chosen in batches([len(prompt) for prompt in prompts], batch_size, owners):
            rows = [prompts[i] for i in chosen]
            mine = owners and owners.of(chosen)
            found = _continue(model, rows, [limits[i] for i in chosen], device, mine, ends)
            for i, ids in zip(chosen, found, strict=True):
                texts[i] = model.tokenizer.decode(ids, skip_special_tokens=True).strip()
    return tuple(texts)


def _stops(model: Evaluated) -> set[int]:
    """The ids that end a text: the tokenizer's EOS, and those that the model names."""
    configured = getattr(getattr(model.model, "generation_config", None), "eos_token_id", None)
    named = configured if isinstance(configured, list) else [configured]
    return {i for i in [model.tokenizer.eos_token_id, *named] if i is not None}


def _continue(
    model: Evaluated,
    rows: Sequence[Sequence[int]],
    limits: Sequence[int],
    device: torch.device,
    owners: Owners | None = None,
    ends: Collection[int] = (),
) -> list[list[int]]:
    from transformers import DynamicCache

    stops = _stops(model) | set(ends)
    batch = left_pad(rows, pad_id(model.tokenizer), device)
    ids, mask, positions = batch.ids, batch.mask, batch.positions
    cache: Any = DynamicCache(config=model.model.config)
    live = [i for i, limit in enumerate(limits) if limit > 0]
    texts: list[list[int]] = [[] for _ in rows]
    if len(live) < len(rows):
        ids, mask, positions = ids[live], mask[live], positions[live]
    while live:
        if owners is not None:
            owners.share(live)
        options = supported(model.model, position_ids=positions, logits_to_keep=1)
        logits = model.model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options
        ).logits
        chosen = logits[:, -1].argmax(dim=-1)
        keep = []
        for place, (row, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
            if token not in stops:
                texts[row].append(token)
                if len(texts[row]) < limits[row]:
                    keep.append(place)
        if len(keep) < len(live):
            index = torch.tensor(keep, dtype=torch.long, device=device)
            cache.batch_select_indices(index)
            mask, positions, chosen = mask[index], positions[index], chosen[index]
            live = [live[place] for place in keep]
        ids = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return texts
