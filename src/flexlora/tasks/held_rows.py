"""Rows that a Python program holds: named by what they are, so that a config can name them.

They are kept as text, one JSON object a line, for as long as the process lives. A run made of them
has that text in its own folder, from where whoever goes on with it holds them again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from flexlora.errors import DataError, seen
from flexlora.formats.checked import DIGITS
from flexlora.tasks.rows import kind_of

NAME = "rows:"
"""What the name of held rows begins with; the rest is of the sha256 of their text."""

_HELD: dict[str, str] = {}


def hold_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Hold these rows, and return the name by which `data.path` or `data.test_path` means them.

    With `data.source = "rows"`. Rows are what a line of a "jsonl" file may be: mappings from
    columns to text, numbers, truth values, None, and lists or mappings of such; arrays and numbers
    of NumPy count as lists and numbers. They are copied. The same rows have the same name, in every
    process. Raises DataError, naming the row (from 0), for what is none and for a value that JSON
    does not have, such as NaN.
    """
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise DataError(f"rows are {kind_of(rows)}, expected an iterable of mappings, one a row")
    return hold_text("".join(_line(place, row) for place, row in enumerate(rows)))


def hold_text(text: str) -> str:
    """The same for rows that are text already."""
    name = NAME + hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
    _HELD[name] = text
    return name


def held_text(name: str) -> str:
    """Raises DataError where nobody held rows of this name."""
    if name not in _HELD:
        raise DataError(
            f"{seen(name)} is no name of rows that this program holds; hold the same rows again "
            "with flexlora.hold_rows (a run made of them has them as JSON lines in its folder rows)"
        )
    return _HELD[name]


def _line(place: int, row: object) -> str:
    if not isinstance(row, Mapping):
        table = "; of a pandas table give table.to_dict('records')" if isinstance(row, str) else ""
        raise DataError(f"row {place} is {kind_of(row)}, expected a mapping from columns{table}")
    for column, value in row.items():
        if not isinstance(column, str):
            raise DataError(f"row {place} has a column named by {kind_of(column)}, expected text")
        try:
            json.dumps(value, allow_nan=False, default=_plain)
        except (TypeError, ValueError, RecursionError) as error:
            said = " ".join(str(error).split())
            raise DataError(
                f"row {place}, column {seen(column)} holds what JSON does not have ({said}); give "
                "text, numbers, lists, mappings, or None where there is nothing"
            ) from error
    return json.dumps(dict(row), allow_nan=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    """Arrays and scalars of NumPy, pandas and torch, and mappings and tuples of any class."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"it is {kind_of(value)}")
