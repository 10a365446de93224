"""What a step of training will hold in memory and do: the step itself, played without numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from flexlora.adapters import Adapter, Factors
from flexlora.allocation.shape import Footprint
from flexlora.errors import ModelError
from flexlora.models import AdaptedModel, BaseModel
from flexlora.models.checkpointing import checkpoint_layers
from flexlora.models.targets import output_head
from flexlora.models.weights import first_line
from flexlora.models.widened import widen, with_instructions
from flexlora.tasks.prompts import Encoded
from flexlora.training.cohort import train_cohort
from flexlora.training.recipe import Recipe
from flexlora.training.tally import Tally, without_data
from flexlora.training.visit import Visit

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BUFFERS = 7_000_000
"""Bytes that torch's own products in half precision take of a CPU beside the numbers that are held.
Measured on one cell in bfloat16, on a processor with instructions for it
(benchmarks/cost_model.py); in float32 too little to see."""
_BY_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException)
_VOCABULARY = 64  # So few logits that they count for nothing: those are counted by formula.
_BLOCKS = (2, 3)  # One alone is let go of otherwise.
_BATCHES = (2, 4)
_ONE = (1,)


@dataclass(frozen=True)
class Played:
    """Bytes on top of the model and of what came, when the forward pass ends and at most; bytes
    that a step reads and writes, its operations, and how many of these are attention."""

    kept: int
    highest: int
    moved: int
    calls: int
    attended: tuple[int, int]


def footprint_of(
    config: Any,
    name: str,
    *,
    dtype: str,
    length: int,
    checkpointing: bool = False,
    targets: Sequence[str] = ("all-linear",),
    alone: bool = False,
    widened: bool = False,
) -> Footprint:
    """Of a model of transformers by its config alone.

    A step of plain SGD at rank 1 is played for two and for three blocks of it, with two and with
    four examples of this length: what it holds grows by equal steps with both. What the adapters
    themselves take is left out. alone: of a pass of one example, which takes less, for it is never
    joined with another. widened: of a CPU without instructions for bfloat16 (models.widened); else
    of processors that have them, whatever this one is: a plan is the same everywhere. Raises
    ModelError for a model that cannot be built or adapted.
    """
    played = {
        (blocks, batch): found
        for blocks in _BLOCKS
        for batch, found in _without_adapter(
            *(shrunk(config, blocks), name, dtype, _ONE if alone else _BATCHES, length),
            *(checkpointing, tuple(targets), widened),
        ).items()
    }
    blocks = int(config.get_text_config().num_hidden_layers)
    kept, highest, moved, calls = (
        _extended({key: getattr(x, name) for key, x in played.items()}, blocks, length)
        for name in ("kept", "highest", "moved", "calls")
    )
    if alone:  # A longer example has no more of them.
        calls = 0.0, calls[0] * length + calls[1]
    there, back = next(iter(played.values())).attended
    return Footprint(
        kept=kept[0],
        kept_fixed=kept[1] + buffers(dtype, widened=widened),
        highest=highest[0],
        highest_fixed=highest[1] + buffers(dtype, widened=widened),
        moved=moved[0],
        moved_fixed=moved[1],
        calls=calls[0],
        calls_fixed=calls[1],
        attended=there / back if back else 1.0 + checkpointing,
    )


def buffers(dtype: str, *, widened: bool = False) -> int:
    """Bytes that a processor's libraries take for products; none where they are widened."""
    return 0 if dtype == "float32" or widened else BUFFERS


def _extended(held: dict[tuple[int, int], int], blocks: int, length: int) -> tuple[float, float]:
    """For a token, and beside all tokens, with so many blocks."""
    batches = sorted({batch for _, batch in held})
    few, many = batches[0], batches[-1]
    if few == many:
        slopes = [float(held[b, few]) / few for b in _BLOCKS]
    else:
        slopes = [(held[b, many] - held[b, few]) / (many - few) for b in _BLOCKS]
    beside = [held[b, few] - few * slope for b, slope in zip(_BLOCKS, slopes, strict=True)]
    first = _BLOCKS[0]
    each, fixed = (x[0] + (blocks - first) * (x[1] - x[0]) for x in (slopes, beside))
    return each / length, fixed


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


def _without_adapter(
    config: Any,
    name: str,
    dtype: str,
    batches: Sequence[int],
    length: int,
    checkpointing: bool,
    targets: tuple[str, ...],
    widened: bool,
) -> dict[int, Played]:
    """For each number of examples, at rank 1, less the adapter's own numbers and its inner
    products."""
    with without_data():
        options: dict[str, Any] = {"checkpointing": checkpointing, "targets": targets}
        model = built(config, name, dtype, widened=widened, **options)
        given: dict[str, Any] = {"ranks": 1, "length": length, "optimiser": "sgd"}
        try:
            found = {x: play(model, batch=x, widened=widened, **given) for x in batches}
        except _BY_NUMBERS as error:
            raise ModelError(
                f"model {name} chooses by numbers what it computes, such as its experts, so that "
                "its memory cannot be foreseen from sizes; measure a step of it"
            ) from error
        except (RuntimeError, NotImplementedError) as error:  # Kernels of experts, without any.
            raise ModelError(
                f"a step of model {name} cannot be played without numbers, as of some mixtures of "
                f"experts, so that its memory cannot be foreseen from sizes ({first_line(error)}); "
                "measure a step of it"
            ) from error
    numbers = 2 * 4 * sum(x.m + x.n for x in model.layers)  # Themselves and their gradients.
    blocks = int(config.get_text_config().num_hidden_layers)

    def less(batch: int, played: Played) -> Played:
        inner = 4 * batch * length * len(model.layers)
        # With checkpointing of one block at a time, and of none when the forward pass ends.
        kept, highest = (0, inner // blocks) if checkpointing else (inner, inner)
        return replace(
            played,
            kept=played.kept - numbers - kept,
            highest=played.highest - numbers - highest,
        )

    return {batch: less(batch, played) for batch, played in found.items()}


def built(
    config: Any,
    name: str,
    dtype: str,
    *,
    checkpointing: bool = False,
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
    """Train so many clients at once for two steps or more, inside `without_data`.

    Every token but the first of each example is learnt. What a step does is that of the last but
    one, up to where the last begins. widened: see `footprint_of`.
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
        begun.append((tally.moved, tally.calls, *tally.attended))

    head = output_head(model.model)
    assert isinstance(head, nn.Module)
    handles = [
        head.register_forward_pre_hook(note),
        model.model.register_forward_pre_hook(begin),
    ]
    recipe = Recipe(optimiser=optimiser, learning_rate=1e-3, batch_size=batch, max_steps=steps)  # type: ignore[arg-type]
    examples = [Encoded("", "", (1,), tuple(range(1, length)), ()) for _ in range(batch * steps)]
    visits = [Visit(adapter, examples, recipe, torch.Generator()) for adapter in received]
    try:
        with tally:
            _ = model.branches  # By trials, as whether it packs.
            before = tally.live
            tally.highest = before
            with nullcontext() if widened else with_instructions():
                outcomes = train_cohort(model, visits)
    finally:
        for handle in handles:
            handle.remove()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    moved, calls, there, back = (then - now for now, then in zip(*begun[-2:], strict=True))
    return Played(kept - before, tally.highest - before, moved, calls, (there, back))
