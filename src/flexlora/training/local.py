"""Local training of one client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from flexlora.adapters import Adapter
from flexlora.errors import DataError, TrainingError
from flexlora.models.adapted import AdaptedModel
from flexlora.training.batches import collate, plan
from flexlora.training.loss import ResponseLoss
from flexlora.training.recipe import Recipe

if TYPE_CHECKING:
    from flexlora.tasks.prompts import Encoded

Penalty = Callable[[Mapping[str, tuple[Tensor, Tensor]]], Tensor | None]

_CHECK_EVERY = 16  # Steps between looks at the loss: each look waits for an accelerator.


@dataclass(frozen=True, eq=False)
class Trained:
    """What a client's training gave.

    loss: mean over all learnt tokens of all steps, each before its update and without the penalty;
    first_loss and last_loss: of the first and last step. tokens: seen in all steps, padding not
    counted. examples: how many the client holds.
    """

    adapter: Adapter
    loss: float
    first_loss: float
    last_loss: float
    steps: int
    tokens: int
    examples: int


def train(
    model: AdaptedModel,
    adapter: Adapter,
    data: Sequence[Encoded],
    recipe: Recipe,
    generator: torch.Generator,
    *,
    origin: bool = False,
    penalty: Penalty | None = None,
) -> Trained:
    """Train `adapter` on `data` with a fresh optimiser; the model is base + Δ again afterwards.

    The order of batches and dropout come from `generator` alone. origin: compute with
    W₀ + Δ + trained − adapter. penalty: layer → (b, a) live → a scalar added to the loss, or None.
    Raises DataError for no data or an example beyond the model's context, TrainingError when the
    loss or the adapter becomes NaN or infinite, AdapterError for an adapter that does not fit.
    """
    _check(model, data)
    lengths = [len(x.prompt) + len(x.response) for x in data]
    batches = plan(lengths, recipe.batch_size, recipe.epochs, generator, recipe.max_steps)
    losses: list[Tensor] = []
    learnt: list[int] = []
    tokens = 0
    try:
        groups = model.start(
            [adapter], origin=origin, dropout=recipe.dropout, generators=[generator]
        )
        parameters = [parameter for group in groups for parameter in group if parameter.numel()]
        optimiser = make_optimiser(parameters, recipe)
        device = parameters[0].device
        live = model.live() if penalty is not None else {}
        with ResponseLoss(model.model).active() as loss_of:
            for step, indices in enumerate(batches):
                batch = collate(
                    [data[i] for i in indices],
                    model.tokenizer.pad_token_id,
                    loss_on=recipe.loss_on,
                    device=device,
                )
                loss = loss_of(batch)
                losses.append(loss.detach())
                learnt.append(batch.learnt)
                tokens += batch.tokens
                extra = penalty(live) if penalty is not None else None
                torch.autograd.backward(loss if extra is None else loss + extra)
                if recipe.clip_norm is not None:
                    nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                if step % _CHECK_EVERY == _CHECK_EVERY - 1:
                    _require_finite(losses, recipe)
        _require_finite(losses, recipe)
        trained = model.trained()[0]
    finally:
        model.stop()
    if not all(factors.finite() for factors in trained.values()):
        raise _diverged(len(batches), "the adapter", recipe)
    values = torch.stack(losses).double().cpu()
    weights = torch.tensor(learnt, dtype=torch.float64)
    return Trained(
        adapter=trained,
        loss=float((values * weights).sum() / weights.sum()),
        first_loss=float(values[0]),
        last_loss=float(values[-1]),
        steps=len(batches),
        tokens=tokens,
        examples=len(data),
    )


def make_optimiser(parameters: Sequence[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """A fresh optimiser; one fused call per step."""
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
    return torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )


def _check(model: AdaptedModel, data: Sequence[Encoded]) -> None:
    if not data:
        raise DataError("the client has no training examples; leave it out or give it data")
    for x in data:
        length = len(x.prompt) + len(x.response)
        if length > model.context:
            raise DataError(
                f"example {x.id} has {length} tokens, expected at most {model.context}, the "
                "model's context; encode it with a lower limit"
            )
        if not x.prompt or not x.response:
            part = "response" if x.prompt else "prompt"
            raise DataError(f"example {x.id} has an empty {part}; leave it out")


def _require_finite(losses: Sequence[Tensor], recipe: Recipe) -> None:
    finite = torch.isfinite(torch.stack(list(losses[-_CHECK_EVERY:])))
    if not bool(finite.all()):
        step = max(0, len(losses) - _CHECK_EVERY) + int((~finite).nonzero()[0]) + 1
        raise _diverged(step, "the loss", recipe)


def _diverged(step: int, what: str, recipe: Recipe) -> TrainingError:
    return TrainingError(
        f"{what} became NaN or infinite at step {step} with learning_rate "
        f"{recipe.learning_rate}; lower learning_rate or set clip_norm"
    )
