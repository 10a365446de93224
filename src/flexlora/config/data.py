"""Where the examples come from, and how they become clients."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from flexlora.config.plain import require_name
from flexlora.config.table import Choice, Positive, Text, argument
from flexlora.errors import ConfigError
from flexlora.options import arguments_of
from flexlora.partition.registry import SCHEMES
from flexlora.tasks.partition import Partition
from flexlora.tasks.source import SEED, SOURCES


class DataConfig(Choice):
    """[data]: where the examples come from, and which are kept unseen. Clients: [partition].

    All other keys of the table are options of the source. Raises ConfigError for those that it
    does not take.
    """

    source: Text = Field(default="embedded", description="name of the data source")
    max_tokens: Positive = Field(
        default=512, description="tokens of a prompt and response together"
    )
    skip_too_long: bool = Field(
        default=False, description="leave out, and count, examples that no cut of the input fits"
    )
    duplicates: Literal["drop", "keep", "refuse"] = Field(
        default="drop",
        description="what becomes of examples to score that are trained on, too, but for blanks "
        "and capitals: not scored, scored all the same, or an error",
    )
    learn: Literal["last", "all"] = Field(
        default="last",
        description="what of a chat is learnt: the assistant's last message, or all that it says",
    )
    options: dict[str, Any] = Field(default={}, description="options of the source: see below")

    @model_validator(mode="after")
    def _that_the_source_takes(self) -> DataConfig:
        SOURCES.make(self.source, self.options, beside=self.own_keys(), hidden=(SEED,))
        for key, value in self.options.items():
            if key == "path" and value == "":
                raise ConfigError("data.path is empty; give a file or a folder")
            if key == "path" or key.endswith("_path"):
                require_name(value, f"data.{key} ")
        if self.learn == "all" and not self.options.get("messages"):
            raise ConfigError(
                "data.learn is 'all', but data.messages names no column with chats; name it, or "
                "leave data.learn out"
            )
        return self

    def without_training(self) -> DataConfig:
        """The same, but for the tasks that train, where the source can leave them out."""
        if "train_tasks" not in arguments_of(SOURCES.named(self.source)):
            return self
        return self.model_copy(update={"options": {**self.options, "train_tasks": 0}})


class PartitionConfig(Choice):
    """[partition]: how the training examples become clients.

    All other keys of the table are options of the scheme. Raises ConfigError as `Partition` does,
    and for options that the scheme does not take.
    """

    by: Text = Field(
        default="task",
        description="task (the source's own), client (a column of the data), category, iid, or "
        "dirichlet",
    )
    label: Text = Field(
        default="category",
        description="what dirichlet deals by and reports count: category or response",
    )
    min_examples: int = argument(Partition, "min_examples", 1)
    options: dict[str, Any] = Field(default={}, description="options of the partition: see below")

    @model_validator(mode="after")
    def _that_can_be(self) -> PartitionConfig:
        # First, since it knows the keys of the table that are no options: they may be misspelt.
        SCHEMES.make(self.by, self.options, beside=self.own_keys())
        self.build()
        return self

    def build(self) -> Partition:
        """The partition. Raises ConfigError for a name or an option that is wrong."""
        return Partition(self.by, self.label, self.min_examples, tuple(self.options.items()))
