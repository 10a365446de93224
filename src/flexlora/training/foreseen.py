"""What a step of training will hold in memory and do, from steps that are played of less of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from flexlora.allocation.shape import Footprint
from flexlora.errors import ModelError
from flexlora.models import AdaptedModel
from flexlora.models.weights import first_line
from flexlora.training.played import Played, built, play, shrunk
from flexlora.training.tally import without_data

BUFFERS = 7_000_000
"""Bytes that torch's own products in half precision take of a CPU beside the numbers that are held.
Measured on one cell in bfloat16, on a processor with instructions for it
(benchmarks/cost_model.py); in float32 too little to see."""
_BY_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException)
_BLOCKS = (2, 3)  # One alone is let go of otherwise.
_BATCHES = (2, 4)
_ONE = (1,)


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
    played: dict[tuple[int, int], Played] = {}
    packs: bool | None = None
    for blocks in _BLOCKS:
        with without_data():
            few = shrunk(config, blocks)
            model = built(few, name, dtype, checkpointing, targets=targets, widened=widened)
            if packs is not None:
                model.packs = packs  # The same of any number of blocks, and found by a trial.
            for batch in _ONE if alone else _BATCHES:
                found = _played(model, name, batch, length, widened)
                played[blocks, batch] = _without_adapter(
                    found, model, batch * length, blocks if checkpointing else 0
                )
            packs = model.packs
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


def _played(model: AdaptedModel, name: str, batch: int, length: int, widened: bool) -> Played:
    """At rank 1 by plain SGD. Raises ModelError where that takes numbers."""
    try:
        return play(model, ranks=1, batch=batch, length=length, optimiser="sgd", widened=widened)
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


def _without_adapter(played: Played, model: AdaptedModel, tokens: int, checkpointed: int) -> Played:
    """Less the numbers of an adapter of rank 1 and its inner products. checkpointed: so many blocks
    are made anew, one at a time; none is there when the forward pass ends."""
    numbers = 2 * 4 * sum(x.m + x.n for x in model.layers)  # Themselves and their gradients.
    inner = 4 * tokens * len(model.layers)
    kept, highest = (0, inner // checkpointed) if checkpointed else (inner, inner)
    return replace(
        played,
        kept=played.kept - numbers - kept,
        highest=played.highest - numbers - highest,
    )
