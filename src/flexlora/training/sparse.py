"""One client that trains single weights of the base, in place of an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from flexlora.adapters.sparse import Values
from flexlora.models import AdaptedModel
from flexlora.models.chosen import Chosen, choosing
from flexlora.training.batches import collate
from flexlora.training.cohort import backward
from flexlora.training.loss import ResponseLoss
from flexlora.training.visit import Lesson, Measured, Student


@final
@dataclass(frozen=True, eq=False)
class TrainedWeights(Measured):
    """change: layer → trained − start of the weights that were trained, in their order."""

    change: Values


def train_weights(
    model: AdaptedModel,
    lesson: Lesson,
    at: Mapping[str, Tensor],
    start: Values,
    trained: Mapping[str, int],
) -> TrainedWeights:
    """Train the first `trained` of the weights at these places, from W₀ + start, as `choosing` has
    it; the model is W₀ again afterwards, bit for bit.

    The recipe is that of an adapter but for dropout, for there is no branch that could have it;
    weight decay and the proximal term pull at the change. Raises DataError for data that does not
    fit the model, TrainingError where a loss or a weight becomes NaN or infinite.
    """
    lesson = replace(lesson, recipe=replace(lesson.recipe, dropout=0.0))
    lesson.check(model.context)
    _ = model.branches  # Found, as whether it packs, by trials that must see the model as it is.
    with (
        choosing(model, at, start, trained) as chosen,
        ResponseLoss(model.model).active() as losses_of,
    ):
        student = Student(lesson, chosen)
        while not student.done:
            chosen.place()
            _step(model, student, losses_of)
            student.require_finite()
        change = chosen.values()
    if not all(bool(values.isfinite().all()) for values in change.values()):
        raise student.diverged("a weight")
    return TrainedWeights(**vars(student.measured()), change=change)


def _step(model: AdaptedModel, student: Student[Chosen], losses_of: ResponseLoss) -> None:
    batch = collate(
        [student.next_batch()],
        model.tokenizer.pad_token_id,
        loss_on=student.lesson.recipe.loss_on,
        packed=model.packs,
        branched=model.branches,
        even=False,
        device=model.device,
    )
    losses = backward(model, batch, losses_of)
    student.step(losses[0], batch.learnt[0], batch.tokens[0])
