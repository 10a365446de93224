"""Many clients in one forward pass: the base runs once over all their examples."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from torch import Tensor

from flexlora.adapters import Sides
from flexlora.errors import AdapterError, DataError, FlexLoRAError, TrainingError
from flexlora.models import AdaptedModel
from flexlora.models.branching import branching
from flexlora.models.carried import Carried
from flexlora.models.packing import packed
from flexlora.models.read_rows import ReadRows
from flexlora.models.trainable import Penalty, Trainable
from flexlora.training.batches import Batch, collate
from flexlora.training.loss import ResponseLoss
from flexlora.training.visit import Student, Trained, Visit


def train(
    model: AdaptedModel,
    visit: Visit,
    *,
    origin: bool = False,
    sides: Sides = "both",
    penalty: Penalty | None = None,
) -> Trained:
    """Train one client; the model is base + Δ again afterwards.

    As `train_cohort` of one, but raises what that returns in place of a result.
    """
    (outcome,) = train_cohort(model, [visit], origin=origin, sides=sides, penalty=penalty)
    if not isinstance(outcome, Trained):
        raise outcome
    return outcome


def train_cohort(
    model: AdaptedModel,
    visits: Sequence[Visit],
    *,
    origin: bool = False,
    sides: Sides = "both",
    penalty: Penalty | None = None,
    stacked: bool | None = None,
) -> list[Trained | FlexLoRAError]:
    """Train these clients side by side, each as it would be alone; the outcomes in their order.

    Gradients of different clients never mix: beyond rounding, a client's result depends on its own
    visit only, and its batches and dropout not even on rounding. A client that is through leaves;
    one whose data or adapter does not fit the model, or whose loss or adapter becomes NaN or
    infinite, has the error as its outcome, and the others go on. Afterwards the model is base + Δ
    again.

    origin: compute with W₀ + Δ + trained − adapter. sides: those that are trained; the other one
    has no gradient, no step and no decay, and is no part of a gradient's norm. penalty: layer →
    (b, a) of one client as it is, and as it was → a scalar added to its loss, or None. stacked: see
    `AdaptedModel.start`.
    Raises ValueError for visits that differ in dropout or in what is learnt.
    """
    recipes = {(visit.recipe.dropout, visit.recipe.loss_on) for visit in visits}
    if len(recipes) > 1:
        shown = ", ".join(f"dropout {x} with loss_on {y!r}" for x, y in sorted(recipes))
        raise ValueError(
            f"visits of one cohort have {shown}; give all of them one dropout and one loss_on"
        )
    outcomes: dict[int, Trained | FlexLoRAError] = {}
    fit: list[int] = []
    for place, visit in enumerate(visits):
        try:
            visit.lesson.check(model.context)
            model.check(visit.adapter, "the adapter")
            fit.append(place)
        except (DataError, AdapterError) as error:
            outcomes[place] = error
    if not fit:
        return [outcomes[place] for place in range(len(visits))]
    try:
        carried = model.start(
            [visits[place].adapter for place in fit],
            origin=origin,
            dropout=visits[fit[0]].recipe.dropout,
            stacked=stacked,
            sides=sides,
        )
        students = {
            place: Student(visits[place].lesson, trainable)
            for place, trainable in zip(fit, carried.trainables, strict=True)
        }
        with ResponseLoss(model.model).active() as losses_of:
            while students:
                _step(model, carried, list(students.values()), losses_of, penalty)
                for place, student in list(students.items()):
                    try:
                        student.require_finite()
                        if student.done:
                            outcomes[place] = _trained(student, model.base.name)
                    except TrainingError as error:
                        outcomes[place] = error
                staying = [at for at, place in enumerate(students) if place not in outcomes]
                if len(staying) < len(students):
                    students = {x: s for x, s in students.items() if x not in outcomes}
                    carried.keep(staying)
    finally:
        model.stop()
    return [outcomes[place] for place in range(len(visits))]


def _step(
    model: AdaptedModel,
    carried: Carried,
    students: Sequence[Student[Trainable]],
    losses_of: ResponseLoss,
    penalty: Penalty | None,
) -> None:
    """One batch of every client through the base at once, one update each."""
    recipe = students[0].lesson.recipe
    batch = collate(
        [student.next_batch() for student in students],
        model.tokenizer.pad_token_id,
        loss_on=recipe.loss_on,
        packed=model.packs,
        branched=model.branches,
        even=carried.stacked,
        device=model.device,
    )
    carried.share(batch.shares, batch.own)
    carried.sow([student.seed for student in students])
    losses = backward(model, batch, losses_of)
    for k, student in enumerate(students):
        if penalty is not None and student.trainable.vector.numel():
            student.trainable.add_gradient_of(penalty)
        student.step(losses[k], batch.learnt[k], batch.tokens[k])


def _trained(student: Student[Trainable], base: str) -> Trained:
    """What came of it. Raises TrainingError for an adapter with NaN or infinity."""
    adapter = student.trainable.trained(base)
    if not all(factors.finite() for factors in adapter.values()):
        raise student.diverged("the adapter")
    return Trained(**vars(student.measured()), adapter=adapter)


def backward(model: AdaptedModel, batch: Batch, losses_of: ResponseLoss) -> Tensor:
    """The clients' losses; their gradients are beside what is trained."""
    in_one_row = batch.positions is not None
    read = ReadRows(batch.read, batch.reads, batch.input_ids.numel())
    over = branching(batch.paths) if any(batch.paths) else None
    packing = packed(model.model, batch.lengths, over) if in_one_row else nullcontext()
    with model.reading(read), packing:
        losses = losses_of(batch)
        losses.sum().backward()  # type: ignore[no-untyped-call]
    return losses.detach()
