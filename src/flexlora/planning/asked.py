"""What a plan is asked for, in plain values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from flexlora.adapters import Wire
from flexlora.allocation.devices import DeviceClass
from flexlora.allocation.memory import Setting
from flexlora.options import MANY, Option, require
from flexlora.planning.allotment import Steps
from flexlora.rules import Rule

Dtype = Literal["float32", "bfloat16", "float16"]
Quantise = Literal["none", "4bit", "8bit"]
Optimiser = Literal["adamw", "sgd"]
OrderName = Literal["uniform", "ffn-first"]


@dataclass(frozen=True)
class Asked:
    """How clients train, and what a round may take. deadline: seconds; traffic: bytes of a client
    both ways; None: no limit. wire: of adapters, as `federation.wire`.

    examples: of a client whose class does not say. Raises ConfigError for a value of another type
    or out of range, as `--key`.
    """

    batch: Annotated[int, Option("examples a step", least=1, most=100_000)] = 8
    length: Annotated[int, Option("tokens of an example", least=2, most=10_000_000)] = 512
    dtype: Dtype = "bfloat16"
    quantise: Quantise = "none"
    checkpointing: bool = False
    optimiser: Optimiser = "adamw"
    examples: Annotated[int, Option("examples of a client", least=1, most=MANY)] = 100
    epochs: Annotated[int, Option("passes over them, each round", least=1, most=10_000)] = 1
    rounds: Annotated[int, Option("rounds", least=1, most=MANY)] = 100
    clients: Annotated[
        int | None, Option("clients of a round; none: all that are there", least=1, most=MANY)
    ] = None
    order: OrderName = "uniform"
    max_rank: Annotated[int, Option("no rank above it", least=1, most=1_000_000)] = 256
    wire: Wire = "exact"
    deadline: float | None = None
    traffic: float | None = None

    def __post_init__(self) -> None:
        require(self)

    def setting(self, rule: Rule) -> Setting:
        return Setting(
            batch=self.batch,
            length=self.length,
            dtype=self.dtype,
            optimiser=self.optimiser,
            checkpointing=self.checkpointing,
            quantise=self.quantise,
            origin=rule.traits.origin,
        )

    def held(self, kind: DeviceClass) -> int:
        """Examples of one client of this class."""
        return self.examples if kind.examples is None else kind.examples

    def parts(self, kind: DeviceClass, setting: Setting) -> Steps:
        """Its steps of a round, the largest first: whole batches, and what is left at the end of an
        epoch."""
        whole, rest = divmod(self.held(kind), self.batch)
        found = ((self.batch, self.epochs * whole), (rest, self.epochs))
        return [(replace(setting, batch=size), count) for size, count in found if size and count]
