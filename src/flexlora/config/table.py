"""What the tables of a config share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from flexlora.config.plain import require_name
from flexlora.errors import ConfigError, shown
from flexlora.formats.quantities import Kind, quantity
from flexlora.options import MANY, arguments_of

# Counts that cost nothing by being large: what there is to be counted bounds them.
Positive = Annotated[int, Field(ge=1, le=MANY)]
Natural = Annotated[int, Field(ge=0, le=MANY)]
Text = Annotated[str, Field(min_length=1)]
PathText = Annotated[Text, AfterValidator(lambda path: require_name(path))]


def quantity_of(given: str | None, kind: Kind) -> str | None:
    """The text as it is, if it is such a quantity. Raises ValueError, for a validator."""
    if given is not None:
        try:
            quantity(given, kind, "it")
        except ConfigError as error:
            raise ValueError(str(error)) from error
    return given


def as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class Table(BaseModel):
    """Base of all tables: nothing can be changed, added or converted, and no number is infinite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )


class Choice(Table):
    """A table that names one of several things. All its other keys are options of that thing."""

    options: dict[str, Any] = {}

    @classmethod
    def own_keys(cls) -> list[str]:
        """The keys that are no options."""
        return [key for key in cls.model_fields if key != "options"]

    @field_validator("options")
    @classmethod
    def _plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key, value in options.items():
            items = value if isinstance(value, list | tuple) else [value]
            plain = all(isinstance(item, str | int | float) for item in items)
            if not plain or any(isinstance(x, float) and not math.isfinite(x) for x in items):
                raise ValueError(
                    f"option {shown(key)} is no plain, finite value; give numbers, text or lists "
                    "of them"
                )
        return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}


def argument(owner: Callable[..., Any], name: str, default: Any, meaning: str = "") -> Any:
    """A key that is this argument of `owner`, which says its meaning and range.

    meaning: what the config says of it instead.
    """
    option = arguments_of(owner)[name].option
    return Field(
        default=default,
        description=meaning or option.meaning,
        ge=option.least,
        gt=option.above,
        le=option.most,
        lt=option.below,
    )
