"""Greedy generation in batches.

By the way that serves the model (`continuing_of`): in our own loop, rows that are done leave the
batch, and each row stops at its own limit and ends. Token for token it does what `model.generate`
does (its slow twin in the tests) with `do_sample=False` and a `GenerationConfig` that names nothing
but how a text ends: what else a model's own may ask for (a repetition penalty, forbidden words,
beams) is not done, for a score is of the model and not of its settings.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flexlora.errors import DataError
from flexlora.evaluation.asked import Asked
from flexlora.evaluation.continuing import FROM_TOGETHER, continuing_of
from flexlora.evaluation.owners import Owners
from flexlora.evaluation.padding import Evaluated, batches, batches_alike, inference
from flexlora.evaluation.reading import reading_of


def generate(
    model: Evaluated,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    max_new_tokens: int,
    owners: Owners | None = None,
    ends: Sequence[Collection[int]] | None = None,
) -> tuple[str, ...]:
    """Continue each prompt greedily; texts without special tokens, stripped, in the given order.

    A row stops at EOS or at one of its `ends` (what else ends its turn), after `max_new_tokens`, or
    where the model's context is full. Neither the batch size nor the other prompts change a text,
    but for ties of the argmax within rounding.
    owners: of the prompts, where the model carries adapters.
    Raises DataError for an empty prompt and for one that fills the context, ModelError for a model
    that cannot continue a text.
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
    if not prompts:
        return ()
    equal, continued = not reading_of(model).beside, continuing_of(model)
    always = _stops(model)
    stops = [always | set(also) for also in ends or [()] * len(prompts)]
    with inference(model.model):
        cut = (
            batches_alike(prompts, batch_size, owners)
            if continued is FROM_TOGETHER
            else batches([len(prompt) for prompt in prompts], batch_size, owners, equal=equal)
        )
        for chosen in cut:
            rows, mine = [prompts[i] for i in chosen], owners and owners.of(chosen)
            asked = Asked(rows, [limits[i] for i in chosen], [stops[i] for i in chosen], mine)
            for i, ids in zip(chosen, continued(model, asked), strict=True):
                texts[i] = model.tokenizer.decode(ids, skip_special_tokens=True).strip()
    return tuple(texts)


def _stops(model: Evaluated) -> set[int]:
    """The ids that end a text: the tokenizer's EOS, and those that the model names."""
    configured = getattr(getattr(model.model, "generation_config", None), "eos_token_id", None)
    named = configured if isinstance(configured, list) else [configured]
    return {i for i in [model.tokenizer.eos_token_id, *named] if i is not None}
