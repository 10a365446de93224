"""When and how the state is scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from flexlora.config.table import Natural, PathText, Positive, Table, argument, as_tuple
from flexlora.evaluation import EvalSettings


class EvaluationConfig(Table):
    """[evaluation]: when and how the state is scored."""

    every: Natural = Field(default=1, description="rounds between validations; 0: none")
    batch_size: int = argument(EvalSettings, "batch_size", 32)
    max_new_tokens: int = argument(EvalSettings, "max_new_tokens", 32)
    validation_examples: Natural = Field(
        default=200,
        description="examples of the clients' validation parts that the server scores, at most; "
        "0: only clients evaluate",
    )
    validation_clients: Natural = Field(
        default=0,
        description="clients kept out of training, on which the server validates instead",
    )
    on_clients: Literal["off", "global", "tuned"] = Field(
        default="off",
        description="what clients score on their own validation parts: nothing, the global adapter "
        "at their own rank, or also what they fine-tuned in that round",
    )
    clients: Positive | Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=1.0,
        description="clients that score the global adapter each time: a whole number, or a share "
        "of those that hold validation examples",
    )
    client_examples: Positive = Field(
        default=50, description="examples of its validation part that each client scores, at most"
    )
    decide_by: Literal["server", "clients"] = Field(
        default="server", description="whose validation decides the best round and when to stop"
    )
    own_examples: Natural = Field(
        default=200,
        description="examples of the clients' own test parts scored at the end, at most",
    )
    metrics: Annotated[tuple[PathText, ...], Field(min_length=1), BeforeValidator(as_tuple)] = (
        Field(
            default=("loss", "token_loss", "rouge_l", "exact_match"),
            description="scores at the end: names of metrics, or path/to/file.py:function",
        )
    )
    metric: PathText = Field(
        default="loss",
        description="validation score that decides the best round; one that needs generated text "
        "makes every validation generate",
    )
    predictions: int = argument(
        EvalSettings,
        "predictions",
        20,
        "generated texts kept of each final scoring, over all clients",
    )
    unseen: bool = Field(
        default=True, description="score unseen examples and test parts at the end; false to tune"
    )
    types_at_end: bool = Field(
        default=True, description="also score each client type's adapter at the end"
    )

    @model_validator(mode="after")
    def _somebody_decides(self) -> EvaluationConfig:
        if self.every and self.decide_by == "server" and not self.validation_examples:
            raise ValueError(
                "validation_examples is 0 but decide_by is 'server'; raise it, or set decide_by to "
                "'clients'"
            )
        if self.on_clients != "off" and not self.every:
            raise ValueError(
                f"on_clients is '{self.on_clients}' but every is 0, so that nobody is ever asked; "
                "raise every, or set on_clients to 'off'"
            )
        if self.decide_by == "clients" and self.on_clients == "off":
            raise ValueError(
                "decide_by is 'clients' but on_clients is 'off'; set on_clients to 'global'"
            )
        return self
