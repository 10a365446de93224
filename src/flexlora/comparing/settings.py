"""[compare]: which arms are compared, on which seeds, and by what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from flexlora.config.settings import HOSTS
from flexlora.config.table import PathText, Positive, Table, Text, as_tuple
from flexlora.errors import nearest, shown

CONTROLS = ("base", "lowest", "highest", "local", "centralised")
Control = Literal["base", "lowest", "highest", "local", "centralised"]

_Seed = Annotated[int, Field(ge=0, lt=2**63)]
_Rate = Annotated[float, Field(gt=0.0, le=1e6)]


def _as_floats(value: object) -> object:
    """A list whose whole numbers are floats: a rate of 1 is 1.0."""
    given = as_tuple(value)
    return (
        tuple(float(x) if type(x) is int else x for x in given) if type(given) is tuple else given
    )


class CompareConfig(Table):
    """[compare]: the arms, the seeds, and the one comparison that is fixed before the runs."""

    rules: Annotated[tuple[PathText, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="rules that are compared: names, or path/to/file.py:Class"
    )
    mixes: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="names of mixes, each with every rule; none: that of [clients]"
    )
    hosts: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="host methods, each with every rule; none: that of [training]"
    )
    controls: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="arms to hold the others against: " + ", ".join(CONTROLS)
    )
    seeds: Annotated[tuple[_Seed, ...], Field(min_length=1), BeforeValidator(as_tuple)] = Field(
        description="seeds on which every arm is played"
    )
    rates: Annotated[tuple[_Rate, ...], BeforeValidator(_as_floats)] = Field(
        default=(),
        description="learning rates, one grid for every arm; one: nothing is tuned; none: that of "
        "[training]",
    )
    tuning_seeds: Annotated[tuple[_Seed, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="seeds on which the rates are tuned, none of them among seeds"
    )
    tuning_rounds: Positive | None = Field(
        default=None, description="rounds of a tuning run; none: those of [federation]"
    )
    tuning_metric: PathText | None = Field(
        default=None, description="metric by which the rates are tuned; none: the one compared"
    )
    metric: PathText = Field(default="loss", description="metric that is compared and shown first")
    part: Literal["validation", "own", "unseen"] = Field(
        default="own", description="whose examples it is compared on"
    )
    state: Text = Field(
        default="full", description="adapter that is compared: full, or a client type's"
    )
    primary: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="the two arms whose difference is tested; none: nothing is"
    )
    level: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.05, description="level of that test"
    )
    target: float | None = Field(
        default=None, description="value of the metric whose cost is told; none: none is"
    )

    @field_validator("hosts")
    @classmethod
    def _known_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        return _known(hosts, HOSTS)

    @field_validator("controls")
    @classmethod
    def _known_controls(cls, controls: tuple[str, ...]) -> tuple[str, ...]:
        return _known(controls, CONTROLS)

    @field_validator("rules", "mixes", "hosts", "controls", "seeds", "rates", "tuning_seeds")
    @classmethod
    def _each_once(cls, given: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = sorted({x for x in given if given.count(x) > 1})
        if twice:
            raise ValueError(f"{_listed(twice)} is named twice; name each once")
        return given

    @field_validator("rates")
    @classmethod
    def _rising(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if list(rates) != sorted(rates):
            raise ValueError("the rates do not rise; give them in order, the lowest first")
        return rates

    @property
    def tuned_by(self) -> str:
        """The metric by which the rates are tuned."""
        return self.metric if self.tuning_metric is None else self.tuning_metric

    @model_validator(mode="after")
    def _seeds_apart(self) -> CompareConfig:
        both = sorted(set(self.seeds) & set(self.tuning_seeds))
        if both:
            raise ValueError(
                f"tuning_seeds has {_listed(both)}, which seeds has too; tune on seeds that are "
                "not compared"
            )
        if self.tuned and not self.tuning_seeds:
            raise ValueError(
                f"rates has {len(self.rates)} values, but tuning_seeds is empty; name seeds to "
                "tune on, or give one rate"
            )
        return self

    @model_validator(mode="after")
    def _enough_seeds(self) -> CompareConfig:
        if self.primary and (len(self.primary) != 2 or self.primary[0] == self.primary[1]):
            raise ValueError("primary is no pair; name two different arms")
        if self.primary and len(self.seeds) < (needed := seeds_needed(self.level)):
            raise ValueError(
                f"seeds has {len(self.seeds)}, and the exact paired test of primary can reach no "
                f"p below {2.0 ** (1 - len(self.seeds)):g}; for level {self.level:g} give at least "
                f"{needed} seeds, or raise level"
            )
        return self

    @property
    def tuned(self) -> bool:
        """Whether there is anything to tune."""
        return len(self.rates) > 1


def seeds_needed(level: float) -> int:
    """Seeds from which on the exact paired permutation test, whose smallest p is 2/2^n, can reach
    this level."""
    n = max(1, math.ceil(math.log2(2.0 / level)))
    return n if 2.0 / 2.0**n <= level else n + 1


def _known(given: tuple[str, ...], known: Sequence[str] | dict[str, Any] | Any) -> tuple[str, ...]:
    for name in given:
        if name not in known:
            raise ValueError(f"{shown(name)} is unknown; {nearest(name, known)}")
    return given


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
