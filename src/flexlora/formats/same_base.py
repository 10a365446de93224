"""Whether two adapters, or an adapter and a model, have one base model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Base:
    """What is known of a base model.

    fingerprint: "precision:digest" of its weights; "" for unknown.
    """

    name: str
    fingerprint: str


def difference(one: Base, other: Base) -> Literal["weights", "name"] | None:
    """What tells the two apart; None where nothing does.

    Fingerprints decide where both are known and of one precision; else the names, by `same_base`,
    where both are known.
    """
    ours, theirs = one.fingerprint, other.fingerprint
    if ours and theirs and ours.partition(":")[0] == theirs.partition(":")[0]:
        return "weights" if ours != theirs else None
    if one.name and other.name and not same_base(one.name, other.name):
        return "name"
    return None


def same_base(one: str, other: str) -> bool:
    """True for equal names, paths to one place, and names with the same last component."""
    ours, theirs = (os.path.realpath(os.path.expanduser(name)) for name in (one, other))
    return one == other or ours == theirs or Path(one).name == Path(other).name != ""
