"""A table as a source read it: rows of values under the names of columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flexlora.tasks.problems import Problems

# What values are, in words.
TEXT, WHOLE, LIST = "text", "a whole number", "a list"


@dataclass(frozen=True)
class Row:
    """One row of a table. place: where it stands, for errors ("a.jsonl, line 7"); id: short."""

    place: str
    id: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """A table as it was read. where: its file or name; columns: all that any row has.

    parts: what it was read from, each by one name however it was asked for: whole paths of files,
    or splits of a dataset. problems: rows that could not be read, which are not among these.
    """

    where: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    parts: tuple[str, ...] = ()
    problems: Problems | None = None


def overlap(one: str, other: str) -> bool:
    """Whether two of `Rows.parts` are the same, or one a slice of the other: "train[:10%]"."""
    return one == other or any(
        whole.endswith(")") and part.startswith(f"{whole[:-1]}[")
        for whole, part in ((one, other), (other, one))
    )


def kind_of(value: object) -> str:
    """A value's kind in words."""
    for kind, words in (
        (type(None), "null"),
        (bool, "true or false"),
        (str, TEXT),
        (int, WHOLE),
        (float, "a number with a decimal point"),
        (list | tuple, LIST),
        (Mapping, "an object"),
        (bytes, "bytes"),
    ):
        if isinstance(value, kind):
            return words
    return f"of type {type(value).__name__}"
