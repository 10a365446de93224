"""One client's training: what it is given, where it stands, what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flexlora.adapters import Adapter
from flexlora.errors import DataError, TrainingError
from flexlora.models.trainable import Penalty, Trainable
from flexlora.tasks.prompts import Encoded
from flexlora.training.batches import plan
from flexlora.training.recipe import Recipe

_CHECK_EVERY = 16  # Steps between looks at the loss: each look waits for an accelerator.


@dataclass(frozen=True, eq=False)
class Visit:
    """One client to train: `adapter` on `data` with a fresh optimiser.

    The order of batches and dropout come from `generator` alone, whoever is trained beside it.
    """

    adapter: Adapter
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
        """The plan of this visit's batches, drawn from its generator."""
        lengths = [len(x.prompt) + len(x.response) for x in self.data]
        recipe = self.recipe
        return plan(lengths, recipe.batch_size, recipe.epochs, self.generator, recipe.max_steps)


@dataclass(frozen=True, eq=False)
class Trained:
    """What a client's training gave.

    loss: mean over all learnt tokens of all steps, each before its update and without the penalty;
    first_loss and last_loss: of the first and last step. tokens: seen in all steps, padding not
    counted. examples: how many the client holds, whether or not max_steps let it train on all.
    """

    adapter: Adapter
    loss: float
    first_loss: float
    last_loss: float
    steps: int
    tokens: int
    examples: int


class Student:
    """A visit on its way: its batches, its own optimiser, the losses so far."""

    def __init__(self, visit: Visit, trainable: Trainable) -> None:
        self.visit = visit
        self.trainable = trainable
        self.seed = 0
        self._batches = visit.batches()
        self._optimiser = make_optimiser([trainable.vector], visit.recipe)
        proximal = visit.recipe.proximal > 0.0
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
        if self.visit.recipe.dropout:
            self.seed = int(torch.randint(2**62, (), generator=self.visit.generator))
        return [self.visit.data[i] for i in self._batches[self.steps]]

    def step(self, loss: Tensor, learnt: int, tokens: int, penalty: Penalty | None) -> None:
        """Update from the gradient that lies beside the vector, and clear it."""
        self._losses.append(loss)
        self._learnt.append(learnt)
        self._tokens += tokens
        if not self.trainable.vector.numel():
            return
        if penalty is not None:
            self.trainable.add_gradient_of(penalty)
        if self._received is not None:
            away = self.trainable.vector.detach() - self._received
            self.trainable.gradient.add_(away, alpha=self.visit.recipe.proximal)
        if self.visit.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_([self.trainable.vector], self.visit.recipe.clip_norm)
        self._optimiser.step()
        self.trainable.gradient.zero_()

    def require_finite(self) -> None:
        """Raise TrainingError for a loss that is none; looks now and then, and when all is done."""
        if not self.done and self.steps % _CHECK_EVERY:
            return
        finite = torch.isfinite(torch.stack(self._losses[-_CHECK_EVERY:]))
        if not bool(finite.all()):
            step = max(0, self.steps - _CHECK_EVERY) + int((~finite).nonzero()[0]) + 1
            raise self._diverged(step, "the loss")

    def trained(self, base: str) -> Trained:
        """What came of it. Raises TrainingError for an adapter with NaN or infinity."""
        adapter = self.trainable.trained(base)
        if not all(factors.finite() for factors in adapter.values()):
            raise self._diverged(self.steps, "the adapter")
        values = torch.stack(self._losses).cpu().double()
        weights = torch.tensor(self._learnt, dtype=torch.float64)
        return Trained(
            adapter=adapter,
            loss=float((values * weights).sum() / weights.sum()),
            first_loss=float(values[0]),
            last_loss=float(values[-1]),
            steps=self.steps,
            tokens=self._tokens,
            examples=len(self.visit.data),
        )

    def _diverged(self, step: int, what: str) -> TrainingError:
        return TrainingError(
            f"{what} became NaN or infinite at step {step} with learning_rate "
            f"{self.visit.recipe.learning_rate}; lower learning_rate or set clip_norm"
        )


def make_optimiser(parameters: Sequence[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """A fresh optimiser; one fused call per step."""
    kind = torch.optim.SGD if recipe.optimiser == "sgd" else torch.optim.AdamW
    return kind(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
