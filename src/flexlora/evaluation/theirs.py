"""Rows continued by transformers' own `generate`, for models that our cache does not serve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flexlora.evaluation.asked import Asked
from flexlora.evaluation.padding import Evaluated, left_pad, pad_id
from flexlora.evaluation.reading import reading_of
from flexlora.evaluation.rows import grouped


def theirs(model: Evaluated, asked: Asked) -> list[list[int]]:
    """Greedily and as the model's forward gives it, whatever its own generation config asks for.

    Rows of one limit and the same ends share a batch, since none leaves it before all are done.
    """
    from transformers import GenerationConfig

    module, pad = model.model, pad_id(model.tokenizer)
    device = next(module.parameters()).device
    texts: list[list[int]] = [[] for _ in asked.rows]
    kinds = grouped(
        [i for i, limit in enumerate(asked.limits) if limit > 0],
        lambda i: (asked.limits[i], tuple(sorted(asked.stops[i]))),
    )
    for (limit, stops), chosen in sorted(kinds.items(), reverse=True):
        if asked.owners is not None:
            asked.owners.share(chosen)
        batch = left_pad([asked.rows[i] for i in chosen], pad, device)
        config = GenerationConfig(
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=list(stops) or None,
            pad_token_id=pad,
            return_dict_in_generate=True,
            output_logits=asked.look is not None,
        )
        masked = {"attention_mask": batch.mask} if reading_of(model).beside else {}
        with _only_what_is_asked(module):
            found = module.generate(batch.ids, generation_config=config, **masked)
        if asked.look is not None:
            for logits in found.logits:
                asked.look(chosen, logits)
        for i, ids in zip(chosen, found.sequences[:, batch.ids.shape[1] :].tolist(), strict=True):
            ends = [place for place, token in enumerate(ids) if token in stops]
            texts[i] = ids[: ends[0]] if ends else ids
    return texts


@contextmanager
def _only_what_is_asked(module: Any) -> Iterator[None]:
    """What a call does not name, `generate` takes from the model's own config: an empty one."""
    from transformers import GenerationConfig

    before = module.generation_config
    module.generation_config = GenerationConfig()
    try:
        yield
    finally:
        module.generation_config = before
