"""What one federation is: frozen, strict, one level of tables. Reading files: `config_file`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from flexlora.allocation.mixes import Mix, build_mix
from flexlora.tasks.partition import Partition

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
    quantise: Literal["none", "4bit", "8bit"] = Field(
        default="none",
        description="hold the base model's linear layers in fewer bits (extra quant)",
    )
    device: Text = Field(
        default="auto",
        description="where the model runs: cpu, cuda, cuda:1, mps; auto: a GPU if there is one",
    )
    checkpointing: bool = Field(
        default=False,
        description="make activations anew in the backward pass: less memory, more time",
    )
    targets: Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(_as_tuple)] = Field(
        default=("all-linear",),
        description="adapted layers: all-linear, attention, mlp, or layer names",
    )
    prompt: Text = Field(default="alpaca", description="name of the prompt template")
    init_from: Text | None = Field(
        default=None, description="PEFT folder or run directory to start from; none: the bare base"
    )
    init_force: bool = Field(
        default=False, description="start from it though it was made for another base model"
    )

    @property
    def precision(self) -> str:
        """How the base's weights are held, for `base_fingerprint`: "float32", "bfloat16-4bit"."""
        return self.dtype if self.quantise == "none" else f"{self.dtype}-{self.quantise}"


class DataConfig(Table):
    """[data]: where the examples come from, and which are kept unseen. Clients: [partition]."""

    source: Text = Field(default="embedded", description="name of the data source")
    path: str = Field(
        default="",
        description="folder or file of the source, or a dataset's name; empty for embedded tasks",
    )
    prompt: Annotated[str | tuple[Text, ...] | None, BeforeValidator(_as_tuple)] = Field(
        default=None,
        description="columns of the prompt: the first is the instruction, the others its input",
    )
    messages: Text | None = Field(
        default=None, description="column with a chat, instead of prompt and response columns"
    )
    response: Text | None = Field(
        default=None, description="column of the response: a text, or a list of accepted texts"
    )
    choices: Text | None = Field(
        default=None, description="column with the answers of multiple choice"
    )
    client: Text | None = Field(default=None, description="column that says whose a row is")
    category: Text | None = Field(default=None, description="column of the row's category")
    id: Text | None = Field(default=None, description="column of the row's id; none: its place")
    subset: Text | None = Field(
        default=None, description="configuration of a Hugging Face dataset that has several"
    )
    split: Text | None = Field(
        default=None, description="split of a Hugging Face dataset that trains; none: train"
    )
    test_split: Text | None = Field(
        default=None, description="split of a Hugging Face dataset that is kept unseen"
    )
    test_path: Text | None = Field(
        default=None, description="file or folder with rows that are kept unseen"
    )
    test_share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        default=None,
        description="share of every category that the server keeps unseen, before the partition",
    )
    examples: Positive | None = Field(
        default=None, description="rows used in all, chosen by the seed; none: all"
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


class PartitionConfig(Table):
    """[partition]: how the training examples become clients. Schemes: `partition.registry`."""

    by: Text = Field(
        default="task",
        description="task (the source's own), client (a column of the data), category, iid, or "
        "dirichlet",
    )
    clients: Positive | None = Field(
        default=None,
        description="clients: needed by iid and dirichlet; by category, large ones are cut to "
        "reach so many",
    )
    alpha: PositiveFloat | None = Field(
        default=None,
        description="α of dirichlet: how alike clients are (0.1: one or two labels each, 100: IID)",
    )
    label: Text = Field(
        default="category",
        description="what dirichlet deals by and reports count: category or response",
    )
    min_examples: Positive = Field(
        default=1, description="examples that every client holds at least, before they are split"
    )

    def build(self) -> Partition:
        """The partition. Raises ConfigError for a name or an option that is wrong."""
        options = {"clients": self.clients, "alpha": self.alpha}
        given = tuple((key, value) for key, value in options.items() if value is not None)
        return Partition(self.by, self.label, self.min_examples, given)


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
                raise ValueError(
                    f"option '{key}' is no plain, finite value; give numbers, text or lists of them"
                )
        return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}


class ScreensConfig(Table):
    """[screens]: what updates pass before they are weighed, in this order: name → its options."""

    chosen: dict[str, dict[str, Any]] = Field(
        default={}, description="screens by name, each with an inline table of its options"
    )


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
        description="clients that score the global adapter each time: a whole number, or a share",
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
    metrics: Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(_as_tuple)] = Field(
        default=("loss", "rouge_l", "exact_match"),
        description="scores at the end: names of metrics, or path/to/file.py:function",
    )
    metric: Text = Field(
        default="loss",
        description="validation score that decides the best round; one that needs generated text "
        "makes every validation generate",
    )
    predictions: Natural = Field(
        default=20, description="generated texts kept of each final scoring, over all clients"
    )
    unseen: bool = Field(
        default=True, description="score unseen clients and test parts at the end; false to tune"
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


class RunConfig(Table):
    """[run]: where it is written and with what it runs.

    No result depends on it beyond rounding: by `threads` and by `clients_at_once`.
    """

    out: Text = Field(default="runs", description="folder that holds the run directories")
    name: Annotated[str, Field(pattern=r"^[^/\\\x00.][^/\\\x00]*$")] | None = Field(
        default=None,
        description="name of the run directory, without slashes; none: the rule's name",
    )
    threads: Positive | None = Field(
        default=None,
        description="CPU threads of each process; none: torch's own choice, shared by the workers",
    )
    clients_at_once: Positive | Literal["auto"] = Field(
        default="auto",
        description="clients trained in one forward pass; auto: the fastest number that fits, "
        "measured before the run",
    )
    workers: Positive | Literal["auto"] = Field(
        default="auto",
        description="processes that train, each with a model of its own; auto: one for each GPU",
    )
    memory_gb: PositiveFloat | None = Field(
        default=None,
        description="memory that auto may plan for training, beside the model; none: four fifths "
        "of what is free; given, freed memory is returned at once, which takes time",
    )
    trackers: Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)] = Field(
        default=(), description="experiment trackers: tensorboard, mlflow, wandb, trackio"
    )


class Config(Table):
    """A whole federation. `Config()` is the paper's setting on the embedded model and tasks."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    partition: PartitionConfig = PartitionConfig()
    clients: ClientsConfig = ClientsConfig()
    rule: RuleConfig = RuleConfig()
    screens: ScreensConfig = ScreensConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    run: RunConfig = RunConfig()

    def document(self) -> dict[str, dict[str, Any]]:
        """Table → key → value as in the TOML file: options as keys, nothing that is none."""
        tables: dict[str, dict[str, Any]] = {}
        for name, table in self.model_dump().items():
            table |= table.pop("options", {})
            table |= table.pop("chosen", {})
            tables[name] = {key: value for key, value in table.items() if value is not None}
        if not tables["screens"]:
            del tables["screens"]
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
