"""All that a run will ask of its model, tried on a few tokens before anything trains."""

from __future__ import annotations

import torch

from flexlora.adapters import Adapter, Factors
from flexlora.adapters.sparse import places
from flexlora.errors import FlexLoRAError, ModelError
from flexlora.evaluation.continuing import continuing_of
from flexlora.evaluation.reading import reading_of, trial_rows
from flexlora.models import AdaptedModel
from flexlora.models.weights import first_line
from flexlora.seeds import seeded
from flexlora.shortage import out_of_memory
from flexlora.tasks.prompts import Encoded
from flexlora.training import Lesson, Recipe, Trained, Visit, train_cohort, train_weights

_LENGTHS = (3, 7, 5, 4)  # Of two clients with two examples each.
_RECIPE = Recipe("sgd", 1e-3, batch_size=2, clip_norm=None)


def rehearse(model: AdaptedModel, *, texts: bool, sparse: bool = False) -> None:
    """A step of two clients at once, losses, and where `texts` are wanted their generation.

    sparse: a step of single weights, too, which some hosts begin with.

    Nothing of it is left. Raises ModelError, in one sentence, for what the model cannot do.
    """
    reading_of(model)
    before = _changes(model)
    with model.alone():
        _train(model)
        if sparse:
            _train_weights(model)
    if texts:
        continuing_of(model)
    if _changes(model) != before:
        raise ModelError(
            f"model {model.base.name} changes its own weights while it computes, so W₀ would not "
            "stay what adapters are made for; switch that off in its config.json (rescale_every = "
            "0 for RWKV), or give another model"
        )


def _changes(model: AdaptedModel) -> int:
    """How often its parameters were written in place."""
    return sum(p._version for p in model.model.parameters())


def _train(model: AdaptedModel) -> None:
    draw = torch.Generator().manual_seed(0)
    factors = {
        x.name: Factors(torch.zeros(x.m, 1), torch.randn(1, x.n, generator=draw), 1.0)
        for x in model.layers
    }
    examples = _examples(model)
    visits = [
        Visit(Adapter(factors, model.base.name), examples[i : i + 2], _RECIPE, seeded(i))
        for i in (0, 2)
    ]
    try:
        outcomes = train_cohort(model, visits)
    except Exception as error:
        if out_of_memory(error):
            raise
        raise _cannot_train(model, first_line(error)) from error
    for outcome in outcomes:
        if isinstance(outcome, FlexLoRAError):
            raise _cannot_train(model, first_line(outcome)) from outcome
        assert isinstance(outcome, Trained)
        if not any(bool(f.b.any()) for f in outcome.adapter.values()):
            raise _cannot_train(model, "none of its adapted layers gets a gradient")


def _train_weights(model: AdaptedModel) -> None:
    at = {x.name: places(x, 1, seed=0) for x in model.layers}
    start = {name: torch.zeros(1) for name in at}
    lesson = Lesson(_examples(model)[:2], _RECIPE, seeded(0))
    try:
        train_weights(model, lesson, at, start, dict.fromkeys(at, 1))
    except ModelError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise _cannot_train(model, first_line(error)) from error


def _examples(model: AdaptedModel) -> list[Encoded]:
    rows = trial_rows(model, *_LENGTHS)
    return [Encoded(str(i), "", tuple(r[:-2]), tuple(r[-2:]), ()) for i, r in enumerate(rows)]


def _cannot_train(model: AdaptedModel, why: str) -> ModelError:
    return ModelError(
        f"model {model.base.name} cannot be trained: {why}; name other layers in model.targets, or "
        "give another model"
    )
