"""Rounds and cohorts, and what a sampled client does with its examples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from flexlora.adapters import Scaling, Wire
from flexlora.config.schedule import MOST_EXAMPLES, NORM_LIMIT
from flexlora.config.table import (
    Natural,
    Positive,
    Table,
    argument,
    as_tuple,
    quantity_of,
)
from flexlora.formats.quantities import TIME, quantity
from flexlora.rules.weighing import Weighing
from flexlora.training.recipe import LossOn, Recipe

SPARSE = 5  # Rounds of SLoRA's first stage (arXiv 2402.11505).


class TrainingConfig(Table):
    """[training]: what a sampled client does with its examples."""

    host: Literal["fedavg", "fedit", "slora"] = Field(
        default="fedit",
        description="host method: fedavg trains by SGD, fedit by AdamW, slora too, after rounds in "
        "which clients train single weights of the base, whose SVD their adapters begin with",
    )
    sparse_rounds: Positive | None = Field(
        default=None,
        description=f"of host slora: so many of those rounds, the first of all; none: {SPARSE}",
    )
    learning_rate: float = argument(Recipe, "learning_rate", 3e-4)
    batch_size: int = argument(Recipe, "batch_size", 4)
    epochs: int = argument(Recipe, "epochs", 1)
    max_steps: int | None = argument(Recipe, "max_steps", None)
    weight_decay: float = argument(Recipe, "weight_decay", 0.0)
    # Not the recipe's range: TOML has no none, so that 0 says it here.
    clip_norm: Annotated[float, Field(ge=0.0, le=1e30)] = Field(
        default=1.0, description="largest norm of a gradient; 0: no clipping"
    )
    dropout: float = argument(Recipe, "dropout", 0.05)
    proximal: float = argument(Recipe, "proximal", 0.0)
    loss_on: LossOn = argument(Recipe, "loss_on", "response")
    decay_factor: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.5, description="factor on the learning rate at each decay round"
    )
    decay_rounds: Annotated[tuple[Positive, ...], BeforeValidator(as_tuple)] = Field(
        default=(15,), description="rounds from which on the learning rate is decayed"
    )
    alpha: Annotated[float, Field(ge=1e-6, le=1e6)] = Field(
        default=16.0,
        description="α of LoRA, for every rank and clients.scale; hetlora has rule.scale instead",
    )
    scaling: Scaling = Field(
        default="lora",
        description="scale of rank r: lora: α/r; rslora: α/√r; anchored: α/√(r · lowest rank)",
    )

    @model_validator(mode="after")
    def _sparse_under_slora(self) -> TrainingConfig:
        if self.sparse_rounds is not None and self.host != "slora":
            raise ValueError(
                f"sparse_rounds is {self.sparse_rounds}, but host is {self.host!r}, which has "
                "none; leave it out, or set host to 'slora'"
            )
        return self

    @model_validator(mode="after")
    def _a_rate_to_the_end(self) -> TrainingConfig:
        decays = len(self.decay_rounds)
        if not self.learning_rate * self.decay_factor**decays > 0.0:
            raise ValueError(
                f"learning_rate is {self.learning_rate}, decay_factor {self.decay_factor}, and "
                f"decay_rounds names {decays}, after which the rate is 0; raise one of the first "
                "two, or name fewer rounds"
            )
        return self


class FederationConfig(Table):
    """[federation]: rounds and cohorts."""

    mode: Literal["federated", "local", "centralised"] = Field(
        default="federated",
        description="federated; or a control on the same data: local: each client trains alone and "
        "keeps its adapter, whatever [rule] and [screens] say; centralised: one trains, at the "
        "highest ranks, on the examples of all, as many a round as the federation would",
    )
    rounds: Positive = Field(default=50, description="rounds at most")
    clients_per_round: Positive | Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.05, description="clients a round: a whole number, or a share with a decimal point"
    )
    over_sample: Annotated[float, Field(ge=1.0, le=100.0)] = Field(
        default=1.0,
        description="so many times the clients of a round are asked, and the first that answer "
        "count: over a network in time, with devices in simulated time, else in the order in which "
        "they were drawn",
    )
    min_clients: Positive = Field(
        default=1, description="clients of a round that have to count, or it is not combined"
    )
    min_share: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.0,
        description="the same as a share of those asked; with over_sample, clients_per_round is "
        "always enough",
    )
    attempts: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1,
        description="times that a round is tried, each time with other clients where there are "
        "some, before too few that count end the run; what is committed stays",
    )
    rest_after: Natural = Field(
        default=3,
        description="failures of a client in a row after which it is not asked for rest_rounds; "
        "0: never",
    )
    rest_rounds: Positive = Field(
        default=5, description="rounds for which a client that fails again and again is not asked"
    )
    wire: Wire = Field(
        default="exact",
        description="how adapters to train travel, both ways: exact; or each number in 16 or 8 "
        "bits, rounded at random so that it is right on average",
    )
    patience: Natural = Field(
        default=3, description="evaluations without gain that end it; 0: never"
    )
    weights: Weighing = Field(
        default="examples",
        description="by what clients weigh: the examples that they train on, or uniform: all alike",
    )
    agreement: bool = Field(
        default=False,
        description="record the mean cosine between what clients changed, round by round; costs "
        "inner products of all pairs",
    )
    norm_limit: Annotated[float, Field(ge=1.0, le=1e30)] = Field(
        default=NORM_LIMIT,
        description="an update whose norm is more than so many times the median of its round is "
        "quarantined, as a failure of its client",
    )
    most_examples: Positive = Field(
        default=MOST_EXAMPLES,
        description="examples of a client that count at most where nobody but the client knows how "
        "many there are: over a network, to train and to score",
    )
    deadline: str | None = Field(
        default=None,
        description='with devices: how long a round lasts at most, like "10m", by their profiles; '
        "who would take longer is asked, and does not count; over a network it decides ranks alone",
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0, description="seed of all randomness"
    )

    @field_validator("deadline")
    @classmethod
    def _a_time(cls, given: str | None) -> str | None:
        return quantity_of(given, TIME)

    @property
    def deadline_seconds(self) -> float | None:
        """`deadline` as a number."""
        if self.deadline is None:
            return None
        return quantity(self.deadline, TIME, "federation.deadline")
