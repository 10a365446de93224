"""Entries of a JSON object, each of the type that is wanted.

All raise ValueError naming the entry: where it is missing, or of another type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from flexlora.errors import seen, shown


def text(record: Mapping[str, Any], name: str) -> str:
    value = _entry(record, name)
    return value if isinstance(value, str) else _refuse(name, value, "a text")


def whole(record: Mapping[str, Any], name: str) -> int:
    return _whole(name, _entry(record, name))


def number(record: Mapping[str, Any], name: str) -> float:
    """Null, which is what JSON has of it, is NaN."""
    return _number(name, _entry(record, name))


def texts(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = _entry(record, name)
    if not isinstance(values, list | tuple) or not all(isinstance(x, str) for x in values):
        _refuse(name, values, "a list of texts")
    return tuple(values)


def items(record: Mapping[str, Any], name: str) -> Sequence[Any]:
    """A list, of anything."""
    value = _entry(record, name)
    return value if isinstance(value, list | tuple) else _refuse(name, value, "a list")


def tables(record: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """A list of objects."""
    return [table({name: value}, name) for value in items(record, name)]


def table(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = _entry(record, name)
    return value if isinstance(value, Mapping) else _refuse(name, value, "an object")


def counts(record: Mapping[str, Any], name: str) -> dict[str, int]:
    """An object of whole numbers."""
    return {key: _whole(f"{name}.{key}", value) for key, value in table(record, name).items()}


def numbers(record: Mapping[str, Any], name: str) -> dict[str, float]:
    """An object of numbers; null is NaN."""
    return {key: _number(f"{name}.{key}", value) for key, value in table(record, name).items()}


def _entry(record: Mapping[str, Any], name: str) -> Any:
    if not isinstance(record, Mapping):
        raise ValueError(f"{shown(record)} stands where {seen(name)} of an object is read")
    if name not in record:
        raise ValueError(f"{name} is missing")
    return record[name]


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse(name, value, "a whole number")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        _refuse(name, value, "a number")
    try:
        return math.nan if value is None else float(value)
    except OverflowError:
        _refuse(name, value, "a number that a float holds")


def _refuse(name: str, value: Any, wanted: str) -> NoReturn:
    raise ValueError(f"{seen(name)} is {shown(value)}, expected {wanted}")
