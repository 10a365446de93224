"""Where a run is written and with what it runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from flexlora.config.table import Positive, PositiveFloat, Table, Text, as_tuple


class RunConfig(Table):
    """[run]: where it is written and with what it runs.

    No result depends on it beyond rounding: by `threads` and by `clients_at_once`, and by
    `memory_gb` where that bounds it.
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
    clients_at_once: Positive | Literal["auto", "measured"] = Field(
        default="auto",
        description="clients trained in one forward pass; auto: by shapes and memory, the same "
        "each time; measured: the fastest that fits in a trial before the run, perhaps another one "
        "each time",
    )
    workers: Positive | Literal["auto"] = Field(
        default="auto",
        description="processes that train, each with a model of its own; auto: one for each GPU",
    )
    memory_gb: PositiveFloat | None = Field(
        default=None,
        description="memory that training may be planned for, beside the model; none: half of what "
        "there is, less the model; given, freed memory is returned at once, which takes time",
    )
    trackers: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="experiment trackers: tensorboard, mlflow, wandb, trackio"
    )
