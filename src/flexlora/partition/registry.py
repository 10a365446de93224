"""The registry of partitions: one line each. A name is taken once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from flexlora.partition.by_label import ByCategory, ByClient, ByTask
from flexlora.partition.dirichlet import Dirichlet
from flexlora.partition.iid import IID
from flexlora.partition.scheme import Scheme
from flexlora.registry import Registry

SCHEMES: Registry[type[Scheme]] = Registry("partition", "partition.by")


def register(name: str, scheme: type[Scheme]) -> None:
    """Add a scheme. Raises ConfigError if another has the name."""
    SCHEMES.add(name, scheme)


def make_scheme(name: str, options: Mapping[str, Any]) -> Scheme:
    """The scheme of this name with its options.

    Raises ConfigError for an unknown name, and for an option that is unknown, missing, of another
    type or out of range.
    """
    return cast("Scheme", SCHEMES.make(name, options))


register("task", ByTask)
register("client", ByClient)
register("category", ByCategory)
register("iid", IID)
register("dirichlet", Dirichlet)
