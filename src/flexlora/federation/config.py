"""What one federation is: frozen, strict, one level of tables. Reading files: `config_file`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from flexlora.allocation.mixes import Mix, build_mix

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Text = Annotated[str, Field(min_length=1)]


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class Table(BaseModel):
    """Base of all tables: nothing can be changed, added or converted, and no number is infinite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )


class ModelConfig(Table):
    """[model]: the base model, and which of its layers are adapted."""

    name: Text = Field(default="tiny", description="embedded model, folder, or hub name")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="dtype of the base model's weights"
    )
    targets: Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(_as_tuple)] = Field(
        default=("all-linear",),
        description="adapted layers: all-linear, attention, mlp, or layer names",
    )
    prompt: Text = Field(default="alpaca", description="name of the prompt template")


class DataConfig(Table):
    """[data]: the tasks; one task is one client."""

    source: Text = Field(default="embedded", description="name of the data source")
    path: str = Field(
        default="", description="folder or file of the source; empty for embedded tasks"
    )
    train_tasks: Natural | None = Field(default=None, description="tasks that train; none: all")
    unseen_tasks: Positive | None = Field(default=None, description="tasks kept unseen; none: all")
    examples_per_task: Positive | None = Field(
        default=None, description="examples a task; none: all"
    )
    unseen_examples_per_task: Positive | None = Field(
        default=None, description="examples an unseen task; none: all"
    )
    min_examples: Natural | None = Field(
        default=None, description="leave out tasks that hold fewer; none: leave none out"
    )
    unseen: Text | None = Field(
        default=None, description="which families are unseen, where the source has a choice"
    )
    share: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        default=None, description="share of each task's examples that is used; none: all"
    )
    max_tokens: Positive = Field(
        default=512, description="tokens of a prompt and response together"
    )
    skip_too_long: bool = Field(
        default=False, description="leave out, and count, examples that no cut of the input fits"
    )


class ClientsConfig(Table):
    """[clients]: how many clients are of which type. Types and mixes: `allocation.mixes`."""

    mix: str | dict[str, float] = Field(
        default="uniform", description="name of a mix, or type name → share, summing to 1"
    )
    scale: PositiveFloat = Field(default=1.0, description="factor on every rank of the mix")
    types: dict[str, int | dict[str, int]] = Field(
        default={}, description="types of one's own: name → rank, or → {pattern = rank}"
    )

    def build_mix(self) -> Mix:
        """The mix with its ranks scaled. Raises ConfigError for shares or types that are wrong."""
        return build_mix(self.mix, self.types, self.scale)


class RuleConfig(Table):
    """[rule]: how adapters are combined. All other keys of the table are the rule's options."""

    name: Text = Field(default="flexlora", description="name of the aggregation rule")
    options: dict[str, Any] = Field(
        default={}, description="options of the rule, checked by the rule"
    )

    @field_validator("options")
    @classmethod
    def _plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key, value in options.items():
            items = value if isinstance(value, list | tuple) else [value]
            plain = all(isinstance(item, str | int | float) for item in items)
            if not plain or any(isinstance(x, float) and not math.isfinite(x) for x in items):
                raise ValueError(f"option '{key}' is no plain, finite value")
        return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}


class TrainingConfig(Table):
    """[training]: what a sampled client does with its examples."""

    host: Literal["fedavg", "fedit"] = Field(
        default="fedit", description="host method: fedavg trains by SGD, fedit by AdamW"
    )
    learning_rate: PositiveFloat = Field(
        default=3e-4, description="step size; SGD wants far more than AdamW"
    )
    batch_size: Positive = Field(default=4, description="examples a step")
    epochs: Positive = Field(default=1, description="passes over a client's examples, each round")
    max_steps: Positive | None = Field(
        default=None, description="steps a round at most; none: no limit"
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0, description="decay of the weights"
    )
    clip_norm: Annotated[float, Field(ge=0.0)] = Field(
        default=1.0, description="largest norm of a gradient; 0: no clipping"
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.05, description="share of a LoRA layer's inputs that is dropped"
    )
    loss_on: Literal["response", "all"] = Field(
        default="response", description="tokens that count: the response, or all"
    )
    decay_factor: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.5, description="factor on the learning rate at each decay round"
    )
    decay_rounds: Annotated[tuple[Positive, ...], BeforeValidator(_as_tuple)] = Field(
        default=(15,), description="rounds from which on the learning rate is decayed"
    )
    alpha: PositiveFloat = Field(default=16.0, description="α of LoRA: the scale is α/r or α/√r")
    scaling: Literal["lora", "rslora"] = Field(
        default="lora", description="lora: α/r; rslora: α/√r"
    )


class FederationConfig(Table):
    """[federation]: rounds and cohorts."""

    rounds: Positive = Field(default=50, description="rounds at most")
    clients_per_round: Positive | Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.05, description="clients a round: a whole number, or a share with a decimal point"
    )
    patience: Natural = Field(
        default=3, description="evaluations without gain that end it; 0: never"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0, description="seed of all randomness"
    )


class EvaluationConfig(Table):
    """[evaluation]: when and how the state is scored."""

    every: Natural = Field(default=1, description="rounds between validations; 0: none")
    batch_size: Positive = Field(default=32, description="examples scored at once")
    max_new_tokens: Positive = Field(default=32, description="tokens generated at most")
    validation_examples: Positive = Field(
        default=200, description="examples of the clients' validation parts scored, at most"
    )
    own_examples: Natural = Field(
        default=200,
        description="examples of the clients' own test parts scored at the end, at most",
    )
    metric: Literal["rouge_l", "loss"] = Field(
        default="loss", description="validation score that decides the best round"
    )
    unseen: bool = Field(
        default=True, description="score unseen clients and test parts at the end; false to tune"
    )
    types_at_end: bool = Field(
        default=True, description="also score each client type's adapter at the end"
    )


class RunConfig(Table):
    """[run]: where it is written and with what it runs; changes no result but by `threads`."""

    out: Text = Field(default="runs", description="folder that holds the run directories")
    name: Annotated[str, Field(pattern=r"^[^/\\\x00.][^/\\\x00]*$")] | None = Field(
        default=None,
        description="name of the run directory, without slashes; none: the rule's name",
    )
    threads: Positive | None = Field(
        default=None, description="CPU threads; none: torch's own choice"
    )


class Config(Table):
    """A whole federation. `Config()` is the paper's setting on the embedded model and tasks."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    clients: ClientsConfig = ClientsConfig()
    rule: RuleConfig = RuleConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    run: RunConfig = RunConfig()

    def document(self) -> dict[str, dict[str, Any]]:
        """Table → key → value as in the TOML file: rule options inline, nothing that is none."""
        tables: dict[str, dict[str, Any]] = {}
        for name, table in self.model_dump().items():
            table |= table.pop("options", {})
            tables[name] = {key: value for key, value in table.items() if value is not None}
        return tables

    def to_toml(self) -> str:
        """The TOML that `config_file.load_config` reads back as an equal config, bit for bit."""
        lines: list[str] = []
        for name, table in self.document().items():
            lines += [f"[{name}]", *(f"{_key(k)} = {_value(v)}" for k, v in table.items()), ""]
        return "\n".join(lines)


def _key(name: str) -> str:
    return tomli_w.dumps({name: 0}).removesuffix(" = 0\n")


def _value(value: Any) -> str:
    """A value on one line; mappings inline, so that tables stay one level deep."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").removesuffix("\n")


def describe(value: object) -> str:
    """A value as a user would write it, cut short, for messages."""
    try:
        text = _value(value)
    except (TypeError, ValueError):
        text = json.dumps(str(value))
    return text if len(text) <= 60 else text[:57] + "…"
