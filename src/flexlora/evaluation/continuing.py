"""Ways to continue rows of tokens greedily. Which one serves a model is found by trial."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from flexlora.errors import ModelError
from flexlora.evaluation.asked import Asked, Way
from flexlora.evaluation.padding import Evaluated, LeftPadded, left_pad, pad_id
from flexlora.evaluation.reading import (
    name_of,
    pristine,
    reading_of,
    trial_rows,
    whole_logits,
)
from flexlora.evaluation.theirs import theirs
from flexlora.evaluation.together import read_together, together_of
from flexlora.models.packing import alike, told
from flexlora.shortage import out_of_memory


def continuing_of(model: Evaluated) -> Way:
    """The first way that gives, token by token, what the model gives for the whole row at once.

    An own loop over the key-value cache, from which rows that are done leave, which begins with
    all prompts in one row where the model can be read so, and padded else; transformers'
    `generate`, for models that remember in another way (states, convolutions); the whole rows
    anew for each token. Tried once for each module, without Δ and adapters.
    Raises ModelError where none serves.
    """
    module = model.model
    if module not in _FOUND:
        reading_of(model)
        with pristine(model) as device:
            way = next((x for x in _WAYS if _serves(x, model, device)), None)
        if way is None:
            raise ModelError(
                f"model {name_of(model)} cannot continue a text, neither with its cache nor "
                "without; leave out of evaluation.metrics those that need texts, or give another "
                "model"
            )
        _FOUND[module] = way
    return _FOUND[module]


def own(model: Evaluated, asked: Asked, *, cached: bool, together: bool = False) -> list[list[int]]:
    """All rows side by side, each leaving when it is done.

    together: the rows themselves are read in one row of all (`read_together`).
    """
    device = next(model.model.parameters()).device
    reading = reading_of(model)
    live = [i for i, limit in enumerate(asked.limits) if limit > 0]
    texts: list[list[int]] = [[] for _ in asked.rows]
    if not live:
        return texts
    batch = left_pad([asked.rows[i] for i in live], pad_id(model.tokenizer), device)
    cache = _cache(model.model) if cached else None
    begun = _begun(model, asked, live, cache) if together else None
    while live:
        if asked.owners is not None:
            asked.owners.share(live)
        if begun is None:
            logits = reading.logits(model.model, batch, 1, cache)[:, -1]
        else:
            logits, begun = begun, None
        if asked.look is not None:
            asked.look(live, logits)
        chosen = logits.argmax(dim=-1)
        keep = []
        for place, (row, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
            if token not in asked.stops[row]:
                texts[row].append(token)
                if len(texts[row]) < asked.limits[row]:
                    keep.append(place)
        if len(keep) < len(live):
            index = torch.tensor(keep, dtype=torch.long, device=device)
            if cache is not None:
                cache.batch_select_indices(index)
            batch, chosen = _pick(batch, index), chosen[index]
            live = [live[place] for place in keep]
        batch = _extended(batch, chosen, only_new=cached)
    return texts


def _begun(model: Evaluated, asked: Asked, live: Sequence[int], cache: Any) -> Tensor:
    """(rows, vocabulary): of the rows' last tokens. The cache has what it would have of the rows
    padded on the left, but for what stands under the padding.
    """
    from transformers import DynamicCache

    rows, one = [asked.rows[i] for i in live], DynamicCache()
    owners = asked.owners and asked.owners.of(live)
    read = read_together(model, rows, [len(row) - 1 for row in rows], owners=owners, cache=one)
    width = max(map(len, rows))
    # Padded with their own first token: another's would let one row's NaN into the others.
    padded = [[own[0]] * (width - len(own)) + own for own in read.places]
    index = torch.tensor(padded, device=read.logits[0].device)
    for k, layer in enumerate(one.layers):
        if layer.is_initialized:
            cache.update(*(_of_rows(x, index) for x in (layer.keys, layer.values)), k)
            layer.reset()
    return torch.cat(read.logits)


def _of_rows(states: Tensor, index: Tensor) -> Tensor:
    """(1, heads, tokens, d) of one row of all → (rows, heads, width, d)."""
    return states[0][:, index].transpose(0, 1)


def _cache(module: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=module.config)


def _pick(batch: LeftPadded, index: Tensor) -> LeftPadded:
    return LeftPadded(batch.ids[index], batch.mask[index], batch.positions[index])


def _extended(batch: LeftPadded, chosen: Tensor, *, only_new: bool) -> LeftPadded:
    """By one column. only_new: ids and positions of that one alone, for a cache has the others."""
    ids, positions = chosen[:, None], batch.positions[:, -1:] + 1
    mask = torch.cat([batch.mask, batch.mask.new_ones(len(ids), 1)], dim=1)
    if only_new:
        return LeftPadded(ids, mask, positions)
    return LeftPadded(
        torch.cat([batch.ids, ids], dim=1), mask, torch.cat([batch.positions, positions], dim=1)
    )


FROM_TOGETHER = partial(own, cached=True, together=True)
WITH_CACHE, WITHOUT_CACHE = partial(own, cached=True), partial(own, cached=False)
_WAYS: tuple[Way, ...] = (FROM_TOGETHER, WITH_CACHE, theirs, WITHOUT_CACHE)
# Beside the modules, which need not know; gone with them.
_FOUND: WeakKeyDictionary[nn.Module, Way] = WeakKeyDictionary()


def _serves(way: Way, model: Evaluated, device: torch.device) -> bool:
    """Whether the logits on the way are those of the row that came of it, but for rounding.

    Tokens are not compared: a tie may fall either way.
    """
    if way is FROM_TOGETHER and not together_of(model):
        return False
    lengths = (2, 7, 5) if reading_of(model).beside else (5, 5, 5)
    rows, seen = trial_rows(model, *lengths), [list[Tensor]() for _ in lengths]

    def look(live: Sequence[int], logits: Tensor) -> None:
        for row, values in zip(live, logits, strict=True):
            seen[row].append(values)

    try:
        with told():
            texts = way(model, Asked(rows, (3, 1, 2), [()] * 3, look=look))
    # Whatever a model's cache or its own generation cannot do, another way may.
    except Exception as error:
        if out_of_memory(error):
            raise
        return False
    for row, text, found in zip(rows, texts, seen, strict=True):
        wanted = whole_logits(model.model, [*row, *text[:-1]], device)[len(row) - 1 :]
        if len(found) != len(wanted):
            return False
        if bool(wanted.isfinite().all()) and not alike(torch.stack(found), wanted):
            return False
    return True
