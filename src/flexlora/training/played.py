"""A step of training, played without numbers: what it holds and does."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from flexlora.adapters import Adapter, Factors
from flexlora.errors import ModelError
from flexlora.models import AdaptedModel, BaseModel
from flexlora.models.checkpointing import checkpoint_layers
from flexlora.models.targets import output_head
from flexlora.models.widened import widen, with_instructions
from flexlora.tasks.prompts import Encoded
from flexlora.training.cohort import train_cohort
from flexlora.training.recipe import Recipe
from flexlora.training.tally import Tally
from flexlora.training.visit import Visit

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_VOCABULARY = 64  # So few logits that they count for nothing: those are counted by formula.


@dataclass(frozen=True)
class Played:
    """Bytes on top of the model and of what came, when the forward pass ends and at most; bytes
    that a step reads and writes, its operations, and how many of these are attention."""

    kept: int
    highest: int
    moved: int
    calls: int
    attended: tuple[int, int]


def shrunk(config: Any, blocks: int, vocabulary: int = _VOCABULARY) -> Any:
    """The same model with so many blocks of its decoder, and a small vocabulary."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    whole = int(text.num_hidden_layers)
    for key, value in vars(text).items():
        if isinstance(value, list) and len(value) == whole:
            setattr(text, key, value[:blocks])
    text.num_hidden_layers = blocks
    text.vocab_size = vocabulary
    text.pad_token_id = None
    return small


def built(
    config: Any,
    name: str,
    dtype: str,
    checkpointing: bool = False,
    *,
    targets: Sequence[str] = ("all-linear",),
    widened: bool = False,
) -> AdaptedModel:
    """The model with all layers in place, inside `without_data` without any numbers. widened: see
    `footprint_of`."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_config(config, dtype=_DTYPES[dtype])
    except Exception as error:
        raise ModelError(
            f"model {name} cannot be built: {str(error).splitlines()[0]}; repair config.json"
        ) from error
    if widened:
        widen(model)
    model.eval().requires_grad_(False)
    if checkpointing:
        checkpoint_layers(model, name)
    context = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 1 << 30)
    tokenizer = SimpleNamespace(pad_token_id=0)
    return AdaptedModel(BaseModel(model, tokenizer, name, context), targets)


class _Enough(BaseException):
    """What was to be seen has been seen; no error, so that nobody takes it for a client's."""


def play(
    model: AdaptedModel,
    *,
    ranks: int,
    batch: int,
    length: int,
    optimiser: str = "adamw",
    cohort: int = 1,
    steps: int = 2,
    widened: bool = False,
) -> Played:
    """Train so many clients at once, inside `without_data`, to where the last of two steps or more
    begins.

    Every token but the first of each example is learnt, and each example is there on its own. What
    a step does is that of the last whole one. widened: see `footprint_of`.
    """
    received = [
        Adapter(
            {
                x.name: Factors(torch.zeros(x.m, ranks), torch.zeros(ranks, x.n), 1.0)
                for x in model.layers
            }
        )
        for _ in range(cohort)
    ]
    sides = [side for adapter in received for f in adapter.values() for side in (f.a, f.b)]
    known = [*model.model.parameters(), *model.model.buffers(), *sides]
    tally = Tally(known)
    kept = 0
    begun: list[tuple[int, ...]] = []

    def note(*_: object) -> None:
        nonlocal kept
        kept = tally.live

    def begin(*_: object) -> None:
        if torch.is_grad_enabled():  # Else it is a trial.
            begun.append((tally.moved, tally.calls, *tally.attended))
        if len(begun) == steps:
            raise _Enough

    head = output_head(model.model)
    assert isinstance(head, nn.Module)
    handles = [
        head.register_forward_pre_hook(note),
        model.model.register_forward_pre_hook(begin),
    ]
    recipe = Recipe(optimiser=optimiser, learning_rate=1e-3, batch_size=batch, max_steps=steps)  # type: ignore[arg-type]
    examples = [Encoded("", "", (1,), tuple(range(1, length)), ()) for _ in range(batch * steps)]
    visits = [Visit(adapter, examples, recipe, torch.Generator()) for adapter in received]
    model.branches = False
    outcomes: list[Any] = []
    try:
        with tally:
            _ = model.packs  # By a trial.
            before = tally.live
            tally.highest = before
            with nullcontext() if widened else with_instructions(), suppress(_Enough):
                outcomes = train_cohort(model, visits)
    finally:
        for handle in handles:
            handle.remove()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    moved, calls, there, back = (then - now for now, then in zip(*begun[-2:], strict=True))
    return Played(kept - before, tally.highest - before, moved, calls, (there, back))
