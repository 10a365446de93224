"""Where a run is written and with what it runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from flexlora.config.table import PathText, Positive, Table, Text, as_tuple
from flexlora.errors import shown
from flexlora.formats.atomic import LONGEST_NAME

MOST_THREADS = 1024  # Many thousands end the process, with no word.
MOST_WORKERS = 256  # Each holds a model of its own.
MOST_CHECKPOINTS = 1000


class RunConfig(Table):
    """[run]: where it is written and with what it runs.

    No result depends on it beyond rounding. Bits change with `threads` and with `clients_at_once`;
    and by `workers` and `memory_gb` where either of the two is left to be chosen, for then it
    follows from those: both from `workers`, `clients_at_once` from `memory_gb` too.
    """

    out: PathText = Field(default="runs", description="folder that holds the run directories")
    name: Annotated[str, Field(pattern=r"^[^/\\\x00.][^/\\\x00]*$")] | None = Field(
        default=None,
        description="name of the run directory, without slashes; none: the rule's name",
    )
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] | None = Field(
        default=None,
        description="CPU threads of each process; none: torch's own choice, shared by the workers",
    )
    clients_at_once: Positive | Literal["auto", "measured"] = Field(
        default="auto",
        description="clients trained in one forward pass; auto: by shapes and memory, the same "
        "each time; measured: the fastest that fits in a trial before the run, perhaps another one "
        "each time",
    )
    workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] | Literal["auto"] = Field(
        default="auto",
        description="processes that train, each with a model of its own; auto: one for each GPU",
    )
    memory_gb: Annotated[float, Field(gt=0.0, le=1e6)] | None = Field(
        default=None,
        description="memory that training may be planned for in all processes together, beside "
        "their models; none: half of what there is, less the models; given, freed memory is "
        "returned at once, which takes time",
    )
    checkpoints: Annotated[int, Field(ge=1, le=MOST_CHECKPOINTS)] = Field(
        default=2,
        description="states of the last rounds that are kept, beside the best one: where the last "
        "is damaged, a resume goes on from the one before",
    )
    trackers: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="experiment trackers: tensorboard, mlflow, wandb, trackio"
    )

    @field_validator("name")
    @classmethod
    def _that_a_folder_can_have(cls, name: str | None) -> str | None:
        if name is not None and len(name.encode(errors="replace")) > LONGEST_NAME:
            raise ValueError(f"{shown(name)} has more than {LONGEST_NAME} bytes; shorten it")
        return name
