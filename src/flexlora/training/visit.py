"""One client's training: what it is given, where it stands, what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, final

import torch
from torch import Tensor, nn

from flexlora.adapters import Adapter
from flexlora.errors import DataError, TrainingError
from flexlora.models.chosen import Chosen
from flexlora.models.trainable import Trainable
from flexlora.tasks.prompts import Encoded
from flexlora.training.batches import plan
from flexlora.training.recipe import Recipe

_CHECK_EVERY = 16  # Steps between looks at the loss: each look waits for an accelerator.


# What is trained: one vector, with its gradient beside it at all times.
M = TypeVar("M", Trainable, Chosen)


@dataclass(frozen=True, eq=False)
class Lesson:
    """One client's data, and how anything is trained on it with a fresh optimiser.

    The order of batches and dropout come from `generator` alone, whoever is trained beside it.
    """

    data: Sequence[Encoded]
    recipe: Recipe
    generator: torch.Generator

    def check(self, context: int) -> None:
        """Raise DataError for no data, an empty part, or an example beyond `context` tokens."""
        if not self.data:
            raise DataError("the client has no training examples; leave it out or give it data")
        for x in self.data:
            x.check(context)

    def batches(self) -> list[list[int]]:
        """The plan of its batches, drawn from its generator."""
        lengths = [len(x.prompt) + len(x.response) for x in self.data]
        recipe = self.recipe
        return plan(lengths, recipe.batch_size, recipe.epochs, self.generator, recipe.max_steps)


@dataclass(frozen=True, eq=False)
class Visit:
    """One client to train: `adapter` on `data`; the rest as of `Lesson`."""

    adapter: Adapter
    data: Sequence[Encoded]
    recipe: Recipe
    generator: torch.Generator

    @property
    def lesson(self) -> Lesson:
        return Lesson(self.data, self.recipe, self.generator)


@dataclass(frozen=True, eq=False)
class Measured:
    """What a client measured while it trained.

    loss: mean over all learnt tokens of all steps, each before its update and without the penalty;
    first_loss and last_loss: of the first and last step. tokens: seen in all steps, padding not
    counted. examples: how many the client holds, whether or not max_steps let it train on all.
    """

    loss: float
    first_loss: float
    last_loss: float
    steps: int
    tokens: int
    examples: int


@final
@dataclass(frozen=True, eq=False)
class Trained(Measured):
    """What a client's training gave, and what it measured."""

    adapter: Adapter


class Student(Generic[M]):
    """A lesson on its way: its batches, its own optimiser, the losses so far."""

    def __init__(self, lesson: Lesson, trainable: M) -> None:
        self.lesson = lesson
        self.trainable: M = trainable
        self.seed = 0
        self._batches = lesson.batches()
        self._optimiser = make_optimiser([trainable.vector], lesson.recipe)
        proximal = lesson.recipe.proximal > 0.0
        self._received = trainable.vector.detach().clone() if proximal else None
        self._losses: list[Tensor] = []
        self._learnt: list[int] = []
        self._tokens = 0

    @property
    def steps(self) -> int:
        return len(self._losses)

    @property
    def done(self) -> bool:
        return self.steps == len(self._batches)

    def next_batch(self) -> list[Encoded]:
        """The examples of the step that comes; draws the step's dropout seed."""
        if self.lesson.recipe.dropout:
            self.seed = int(torch.randint(2**62, (), generator=self.lesson.generator))
        return [self.lesson.data[i] for i in self._batches[self.steps]]

    def step(self, loss: Tensor, learnt: int, tokens: int) -> None:
        """Update from the gradient that lies beside the vector, and clear it."""
        self._losses.append(loss)
        self._learnt.append(learnt)
        self._tokens += tokens
        if not self.trainable.vector.numel():
            return
        if self._received is not None:
            away = self.trainable.vector.detach() - self._received
            self.trainable.gradient.add_(away, alpha=self.lesson.recipe.proximal)
        if self.lesson.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_([self.trainable.vector], self.lesson.recipe.clip_norm)
        self._optimiser.step()
        self.trainable.gradient.zero_()

    def require_finite(self) -> None:
        """Raise TrainingError for a loss that is none; looks now and then, and when all is done."""
        if not self.done and self.steps % _CHECK_EVERY:
            return
        finite = torch.isfinite(torch.stack(self._losses[-_CHECK_EVERY:]))
        if not bool(finite.all()):
            step = max(0, self.steps - _CHECK_EVERY) + int((~finite).nonzero()[0]) + 1
            raise self.diverged("the loss", step)

    def measured(self) -> Measured:
        values = torch.stack(self._losses).cpu().double()
        weights = torch.tensor(self._learnt, dtype=torch.float64)
        return Measured(
            loss=float((values * weights).sum() / weights.sum()),
            first_loss=float(values[0]),
            last_loss=float(values[-1]),
            steps=self.steps,
            tokens=self._tokens,
            examples=len(self.lesson.data),
        )

    def diverged(self, what: str, step: int | None = None) -> TrainingError:
        """What to raise where this is NaN or infinite, after this step (default: all so far)."""
        return TrainingError(
            f"{what} became NaN or infinite at step {step or self.steps} with learning_rate "
            f"{self.lesson.recipe.learning_rate}; lower learning_rate or set clip_norm"
        )


def make_optimiser(parameters: Sequence[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """A fresh optimiser; one fused call per step."""
    kind = torch.optim.SGD if recipe.optimiser == "sgd" else torch.optim.AdamW
    return kind(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
