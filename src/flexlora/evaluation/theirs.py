"""Rows continued by transformers' own `generate`, for models that our cache does not serve."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from flexlora.evaluation.owners import Owners
from flexlora.evaluation.padding import Evaluated, left_pad, pad_id
from flexlora.evaluation.reading import Row, reading_of

Look = Callable[[Sequence[int], Tensor], None]


def theirs(
    model: Evaluated,
    rows: Sequence[Row],
    limits: Sequence[int],
    stops: Collection[int],
    owners: Owners | None,
    look: Look | None,
) -> list[list[int]]:
    """Greedily and as the model's forward gives it, whatever its own generation config asks for.

    Rows with one limit share a batch, since none leaves it before all are done.
    """
    from transformers import GenerationConfig

    module, pad = model.model, pad_id(model.tokenizer)
    device = next(module.parameters()).device
    texts: list[list[int]] = [[] for _ in rows]
    for limit in sorted(set(limits) - {0}, reverse=True):
        chosen = [i for i, own in enumerate(limits) if own == limit]
        if owners is not None:
            owners.share(chosen)
        batch = left_pad([rows[i] for i in chosen], pad, device)
        config = GenerationConfig(
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=sorted(stops) or None,
            pad_token_id=pad,
            return_dict_in_generate=True,
            output_logits=look is not None,
        )
        masked = {"attention_mask": batch.mask} if reading_of(model).beside else {}
        with _only_what_is_asked(module):
            found = module.generate(batch.ids, generation_config=config, **masked)
        if look is not None:
            for logits in found.logits:
                look(chosen, logits)
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
