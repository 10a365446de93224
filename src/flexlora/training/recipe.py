"""How a client trains, in plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from flexlora.options import MANY, Option, require

Optimiser = Literal["adamw", "sgd"]
LossOn = Literal["response", "all"]


@dataclass(frozen=True)
class Recipe:
    """Local training of one client in one round.

    optimiser: "adamw" or "sgd" (no momentum), fresh in every round, constant learning rate.
    epochs: max_steps cuts them short; the client is weighed by the examples that it holds all the
    same, so that weights do not depend on how long a device trains. clip_norm: of the client's
    whole gradient. dropout: drawn for every token; once, where what examples of a batch begin with
    alike is computed once (see `AdaptedModel.branches`).
    Raises ConfigError for a value of another type or out of range.
    """

    optimiser: Optimiser
    learning_rate: Annotated[
        float, Option("step size; SGD wants far more than AdamW", above=0.0, most=1e38)
    ]
    batch_size: Annotated[int, Option("examples a step", least=1, most=MANY)]
    epochs: Annotated[
        int, Option("passes over a client's examples, each round", least=1, most=10_000)
    ] = 1
    max_steps: Annotated[
        int | None, Option("steps a round at most; none: no limit", least=1, most=MANY)
    ] = None
    weight_decay: Annotated[float, Option("decay of the weights", least=0.0, most=1e6)] = 0.0
    clip_norm: Annotated[
        float | None, Option("largest norm of a gradient; none: no clipping", above=0.0, most=1e30)
    ] = 1.0
    dropout: Annotated[
        float, Option("share of a LoRA layer's inputs that is dropped", least=0.0, below=1.0)
    ] = 0.0
    proximal: Annotated[
        float,
        Option(
            "μ of μ/2 ‖trained − received‖² in the loss (FedProx); 0: none", least=0.0, most=1e6
        ),
    ] = 0.0
    loss_on: Annotated[LossOn, Option("tokens that count: the response, or all")] = "response"

    def __post_init__(self) -> None:
        require(self)

    def steps(self, examples: int) -> int:
        """Of a client that holds so many, in one round."""
        steps = -(-examples // self.batch_size) * self.epochs
        return steps if self.max_steps is None else min(steps, self.max_steps)
