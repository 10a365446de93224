"""How a model is given rows of tokens so that each comes out as it would alone: found by trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from flexlora.errors import ModelError
from flexlora.evaluation.padding import (
    Evaluated,
    LeftPadded,
    inference,
    left_pad,
    pad_id,
    supported,
)
from flexlora.models import AdaptedModel
from flexlora.models.packing import alike
from flexlora.models.targets import output_head
from flexlora.models.weights import first_line
from flexlora.shortage import out_of_memory

Row = Sequence[int]
_SHORT, _LONG = 3, 19  # Much padding beside few tokens: what it does to them must show.


@dataclass(frozen=True)
class Reading:
    """beside: rows of other lengths may stand in a batch, padded on the left and masked; else rows
    of a batch must be equally long. positions: the model is told each token's position.
    """

    beside: bool
    positions: bool

    def logits(self, module: Any, batch: LeftPadded, last: int, cache: Any = None) -> Tensor:
        """(rows, at most `last`, vocabulary): of the last columns. cache: of the columns before."""
        options = supported(module, logits_to_keep=last)
        if self.positions:
            options["position_ids"] = batch.positions
        if self.beside:
            options["attention_mask"] = batch.mask
        if cache is not None:
            options["past_key_values"] = cache
        with _head_in_one_piece(module):
            found = module(input_ids=batch.ids, use_cache=cache is not None, **options).logits
        return torch.as_tensor(found[:, -last:])


@contextmanager
def _head_in_one_piece(module: Any) -> Iterator[None]:
    """The last columns of a batch lie apart in memory, and of a head's weight torch would make a
    copy for each row.
    """
    head = output_head(module)
    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(lambda _, given: (given[0].contiguous(), *given[1:]))
    try:
        yield
    finally:
        hook.remove()


def reading_of(model: Evaluated) -> Reading:
    """How this model reads; tried once for each module, without Δ and adapters.

    A model without a mask that works (RWKV) lets padding into its state, and one may count
    positions in a way of its own.
    Raises ModelError for a model that gives no logits for token ids alone, that looks at later
    tokens, or whose rows depend on each other however they are given.
    """
    module = model.model
    if module not in _FOUND:
        with pristine(model) as device:
            _FOUND[module] = _find(model, device)
    return _FOUND[module]


# Beside the modules, which need not know; gone with them.
_FOUND: WeakKeyDictionary[nn.Module, Reading] = WeakKeyDictionary()


@contextmanager
def pristine(model: Evaluated) -> Iterator[torch.device]:
    """For trials: no gradients, no Δ and no adapters, which may not be finite."""
    alone = model.alone() if isinstance(model, AdaptedModel) else nullcontext()
    with alone, inference(model.model) as device:
        yield device


def name_of(model: Evaluated) -> str:
    """As its user calls it, or of which class it is."""
    return model.base.name if isinstance(model, AdaptedModel) else type(model.model).__name__


def trial_rows(model: Evaluated, *lengths: int) -> list[list[int]]:
    """Rows of such lengths, no token twice where the vocabulary allows it."""
    module = model.model
    vocabulary = int(module.get_input_embeddings().weight.shape[0])
    ids = iter(range(sum(lengths)))
    # From the middle: the first few often mean padding, and the last ones images or the like.
    return [[(vocabulary // 2 + next(ids)) % vocabulary for _ in range(n)] for n in lengths]


def whole_logits(module: Any, row: Row, device: torch.device) -> Tensor:
    """(tokens, vocabulary) of one row alone, asked as plainly as can be."""
    ids = torch.tensor([list(row)], device=device)
    return torch.as_tensor(module(input_ids=ids, use_cache=False).logits[0])


def _find(model: Evaluated, device: torch.device) -> Reading:
    module, name = model.model, name_of(model)
    rows = trial_rows(model, _SHORT, _LONG, _LONG)
    try:
        alone = [whole_logits(module, row, device) for row in rows]
        begun = whole_logits(module, rows[1][:_SHORT], device)
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ModelError(
            f"model {name} gives no logits for token ids alone: {first_line(error)}; give a "
            "decoder such as Llama, Qwen, Gemma or GPT-2"
        ) from error
    told = "position_ids" in supported(module, position_ids=None)
    if not all(bool(x.isfinite().all()) for x in alone):
        return Reading(True, told)  # Its weights are broken; so will its scores be.
    if any(len(x) != len(row) for x, row in zip(alone, rows, strict=True)) or not alike(
        begun, alone[1][:_SHORT]
    ):
        raise ModelError(
            f"model {name} looks at tokens that come later, so it cannot learn to write; give a "
            "decoder, or set is_decoder to true in its config.json if it is one"
        )
    ways = [Reading(True, True)] if told else []
    for way in (*ways, Reading(True, False), Reading(False, False)):
        these = [0, 1, 2] if way.beside else [1, 2]
        batch = left_pad([rows[i] for i in these], pad_id(model.tokenizer), device)
        try:
            found = way.logits(module, batch, _LONG)
        except Exception as error:
            if out_of_memory(error):
                raise
            continue
        if all(alike(found[k, -len(rows[i]) :], alone[i]) for k, i in enumerate(these)):
            return way
    raise ModelError(
        f"model {name} computes a row differently when others are beside it in a batch, so "
        "clients could not share one; give another model"
    )
