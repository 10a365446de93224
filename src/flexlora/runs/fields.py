"""Of what type the entries of a run's small files are: checked where the files are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import date
from typing import Any

from flexlora.errors import cut_short, shown
from flexlora.formats.json_fields import counts, table, text, whole
from flexlora.formats.visible import visible
from flexlora.runs.files import Record

_MOST = 2**63 - 1  # Beyond it a sum or a quotient of a few may be more than a float holds.
Reader = Callable[[Mapping[str, Any], str], Any]


def typed(record: Record, readers: Mapping[str, Reader], required: Collection[str] = ()) -> Record:
    """The record, if every entry that it has and that has a reader is of that type.

    Raises ValueError naming one that is not, or one that is required and missing.
    """
    for name, read in readers.items():
        if name in record:
            read(record, name)
    for name in required:
        if name not in record:
            raise ValueError(f"{name} is missing")
    return record


def at_least(record: Mapping[str, Any], name: str, least: int) -> int:
    """A whole number that can be a count of something, of 63 bits.

    Raises ValueError naming the entry for any other, or a lower one.
    """
    value = whole(record, name)
    if not least <= value <= _MOST:
        bound = f"{least} or more" if value < least else f"{_MOST} at most"
        raise ValueError(f"{name} is {shown(value)}, expected {bound}")
    return value


def natural(record: Mapping[str, Any], name: str) -> int:
    """A count of 0 or more. Raises ValueError as `at_least`."""
    return at_least(record, name, 0)


def _positive(record: Mapping[str, Any], name: str) -> int:
    return at_least(record, name, 1)


def truth(record: Mapping[str, Any], name: str) -> bool:
    """Raises ValueError naming the entry for what is neither true nor false."""
    entry = cut_short(visible(name))  # Its key may be of others.
    if name not in record:
        raise ValueError(f"{entry} is missing")
    value = record[name]
    if not isinstance(value, bool):
        raise ValueError(f"{entry} is {shown(value)}, expected true or false")
    return value


def _day(record: Mapping[str, Any], name: str) -> date:
    value = text(record, name)
    try:
        return date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"{name} is {shown(value)}, expected a day as 2026-11-28") from error


def _each(read: Reader) -> Reader:
    def of_all(record: Mapping[str, Any], name: str) -> None:
        for key, value in table(record, name).items():
            entry = f"{name}.{key}"
            read({entry: value}, entry)

    return of_all


def or_none(read: Reader) -> Reader:
    return lambda record, name: None if record[name] is None else read(record, name)


RESOLVED: Mapping[str, Reader] = {
    "device": text,
    "threads": _positive,
    "workers": _positive,
    "worker_threads": _positive,
    "clients_at_once": _positive,
    "clients_per_round": natural,
    "date": _day,
    "layers": natural,
    "fan_in_fan_out": truth,
    "clients": counts,
    "ranks": _each(text),
    "afforded": _each(counts),
    "metric": text,
    "network": text,
    "higher_is_better": _each(truth),
}
PARENT: Mapping[str, Reader] = {
    "start": natural,
    "path": text,
    "kind": text,
    "rule": or_none(text),
    "round": or_none(natural),
    "commit": or_none(text),
    "fingerprint": text,
}
