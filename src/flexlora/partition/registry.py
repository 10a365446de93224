"""The registry of partitions: one line each. A name is taken once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, cast

from flexlora.errors import ConfigError, nearest
from flexlora.partition.by_label import ByCategory, ByClient, ByTask
from flexlora.partition.dirichlet import Dirichlet
from flexlora.partition.iid import IID
from flexlora.partition.scheme import Scheme

SCHEMES: dict[str, type[Scheme]] = {}


def register(name: str, scheme: type[Scheme]) -> None:
    """Add a scheme. Raises ConfigError if the name is taken."""
    if name in SCHEMES:
        raise ConfigError(f"partition {name!r} is registered already; choose another name")
    SCHEMES[name] = scheme


def make_scheme(name: str, options: Mapping[str, object]) -> Scheme:
    """The scheme of this name with its options.

    Raises ConfigError for an unknown name, an option that it does not have, and one that it needs
    but was not given.
    """
    if name not in SCHEMES:
        raise ConfigError(f"partition.by is {name!r}; {nearest(name, SCHEMES)}")
    cls = cast("Any", SCHEMES[name])
    known = {field.name: field for field in fields(cls)}
    for key in options:
        if key not in known:
            raise ConfigError(
                f"partition.{key} means nothing where partition.by is {name!r}; leave it out, or "
                f"set partition.by to {_that_take(key)}"
            )
    for key, field in known.items():
        if field.default is MISSING and key not in options:
            raise ConfigError(f"partition.by is {name!r}, which needs partition.{key}; give it")
    return cast("Scheme", cls(**options))


def _that_take(key: str) -> str:
    takers = [name for name, cls in SCHEMES.items() if key in {f.name for f in fields(cls)}]  # type: ignore[arg-type]
    return " or ".join(map(repr, takers)) or "one that knows it"


register("task", ByTask)
register("client", ByClient)
register("category", ByCategory)
register("iid", IID)
register("dirichlet", Dirichlet)
