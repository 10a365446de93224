"""Whether two adapters, or an adapter and a model, have one base model."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from flexlora.adapters import About

# Last parts of paths that say where in its making a model is, or in which form, and not which.
_BARE = re.compile(
    r"v?[\d._-]+|(?:checkpoint|ckpt|epoch|step|iter|global_step|version|run|round)[-_]?\d*"
    r"|final|main|master|last|best|latest|models?|base|weights|outputs?|out|merged|export(?:ed)?"
    r"|snapshots?|hf|fp\d+|bf16|float\d+|bfloat16|adapter|\.\.",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Base:
    """What is known of a base model.

    fingerprint: "precision:digest" of its weights; revision: on the hub; "" for unknown.
    """

    name: str
    fingerprint: str
    revision: str = ""

    @staticmethod
    def of(about: About) -> Base:
        return Base(about.base, about.base_fingerprint, about.revision)


def difference(one: Base, other: Base) -> Literal["weights", "name", "revision"] | None:
    """What tells the two apart; None where nothing does.

    Fingerprints decide where both are known and of one precision; else the names, by `same_base`,
    and then the revisions, each where both are known.
    """
    ours, theirs = one.fingerprint, other.fingerprint
    if ours and theirs and ours.partition(":")[0] == theirs.partition(":")[0]:
        return "weights" if ours != theirs else None
    if one.name and other.name and not same_base(one.name, other.name):
        return "name"
    if one.revision and other.revision and one.revision != other.revision:
        return "revision"
    return None


def same_base(one: str, other: str) -> bool:
    """True for equal names, for paths to one place, and where a path ends as the other name does.

    Two names of the hub, "owner/model", are the same only as a whole. Of a path what counts is its
    end, from the last part on that says which model it is: "/data/llama" is "meta/llama", and
    "/a/2b/checkpoint-500" is "/b/2b/checkpoint-500", but not "/a/2b-it/checkpoint-500".
    """
    if one == other or _place(one) == _place(other):
        return True
    ours, theirs = _hub_name(one), _hub_name(other)
    if ours.count("/") == theirs.count("/") == 1 and all(map(_is_plain, (ours, theirs))):
        return ours == theirs
    return _end(ours) == _end(theirs) != ()


def _hub_name(name: str) -> str:
    """A place in the hub's cache as the hub calls it, "owner/model"; other names as they are."""
    parts = _parts(name)
    cached = parts[-3].split("--") if len(parts) >= 3 and parts[-2] == "snapshots" else []
    return "/".join(cached[1:]) if len(cached) == 3 and cached[0] == "models" else name


def _is_plain(name: str) -> bool:
    """Whether the hub could have it: no path that begins at the root, at home or here."""
    return not name.startswith(("/", "~", "."))


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def _place(name: str) -> str:
    try:
        return os.path.realpath(os.path.expanduser(name))
    except (ValueError, OSError):  # A NUL, or longer than the system takes: no path.
        return name


def _end(name: str) -> tuple[str, ...]:
    """Its last parts, from the last on that says which model it is."""
    parts = _parts(name)
    for place in reversed(range(len(parts))):
        if not _BARE.fullmatch(parts[place]):
            return tuple(parts[place:])
    return ()
