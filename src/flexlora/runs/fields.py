"""Of what type the entries of a run's small files are: checked where the files are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from flexlora.formats.json_fields import counts, table, text, whole
from flexlora.runs.files import Record

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


def _positive(record: Mapping[str, Any], name: str) -> int:
    value = whole(record, name)
    if value < 1:
        raise ValueError(f"{name} is {value}, expected 1 or more")
    return value


def _natural(record: Mapping[str, Any], name: str) -> int:
    value = whole(record, name)
    if value < 0:
        raise ValueError(f"{name} is {value}, expected 0 or more")
    return value


def _truth(record: Mapping[str, Any], name: str) -> bool:
    value = record[name]
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r:.60}, expected true or false")
    return value


def _each(read: Reader) -> Reader:
    def of_all(record: Mapping[str, Any], name: str) -> None:
        entries = table(record, name)
        for key in entries:
            read(entries, key)

    return of_all


def or_none(read: Reader) -> Reader:
    return lambda record, name: None if record[name] is None else read(record, name)


RESOLVED: Mapping[str, Reader] = {
    "device": text,
    "threads": _positive,
    "workers": _positive,
    "worker_threads": _positive,
    "clients_at_once": _positive,
    "clients_per_round": _natural,
    "layers": _natural,
    "fan_in_fan_out": _truth,
    "clients": counts,
    "ranks": _each(text),
    "metric": text,
    "higher_is_better": _each(_truth),
}
PARENT: Mapping[str, Reader] = {
    "start": _natural,
    "path": text,
    "kind": text,
    "rule": or_none(text),
    "round": or_none(_natural),
    "commit": or_none(text),
    "fingerprint": text,
}
