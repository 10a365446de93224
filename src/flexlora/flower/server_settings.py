"""What `flwr run` tells the server beside the federation's config: its run config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from flexlora.config.config_file import sentence
from flexlora.config.table import PathText, Positive, Table
from flexlora.errors import ConfigError, nearest

_WORDS = "run config"


class ServerSettings(Table):
    """Keys of [tool.flwr.app.config], which `flwr run --run-config` may override."""

    config: PathText = Field(
        default="config.toml", description="the federation's config, beside the app's pyproject"
    )
    run: str = Field(
        default="",
        description="run directory to make, or to go on with where it is there; empty: a new one",
    )
    clients: Positive = Field(default=2, description="clients that the run waits for")
    wait: Annotated[float, Field(gt=0.0, le=1e7)] = Field(
        default=600.0, description="seconds for which it waits for them"
    )
    deadline: Annotated[float, Field(gt=0.0, le=1e7)] = Field(
        default=3600.0, description="seconds of a round, after which it goes on with who answered"
    )


class _Document(Table):
    run: ServerSettings


def read_settings(given: Mapping[str, Any]) -> ServerSettings:
    """From Flower's run config. Raises ConfigError naming key, value and what was expected."""
    for key in given:
        if key not in ServerSettings.model_fields:
            raise ConfigError(
                f"{_WORDS} key {key} is unknown; {nearest(key, ServerSettings.model_fields)}"
            )
    values = {
        key: float(value) if key in ("wait", "deadline") and type(value) is int else value
        for key, value in given.items()
    }
    try:
        return _Document.model_validate({"run": values}).run
    except ValidationError as error:
        raise ConfigError(
            sentence(error, _Document).replace("config run.", f"{_WORDS} ")
        ) from error
