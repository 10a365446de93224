"""The seam for data: a source loads a corpus of tasks. Adding one is a class and a line here."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol, cast

from flexlora.errors import ConfigError, nearest
from flexlora.tasks.task import Task


@dataclass(frozen=True)
class Corpus:
    """What a source yields: tasks to train on, tasks that nobody trains on, and what it is.

    `fingerprint` names the content (see `fingerprint`); `notes` are sentences for the run's record
    about what was left out or is missing.
    """

    train: tuple[Task, ...]
    unseen: tuple[Task, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(train: Iterable[Task], unseen: Iterable[Task], notes: Iterable[str] = ()) -> Corpus:
        """Build a corpus and its fingerprint."""
        train, unseen = tuple(train), tuple(unseen)
        return Corpus(train, unseen, fingerprint(train, unseen), tuple(notes))


class Source(Protocol):
    """A data source: a frozen dataclass whose fields are its options."""

    def load(self) -> Corpus:
        """Read, check and choose. The same options on the same files give the same corpus."""
        ...


def fingerprint(train: Iterable[Task], unseen: Iterable[Task]) -> str:
    """sha256 over task names and everything that their examples hold, in order.

    Each text is written with its length in front, and each group of texts with its number, so that
    no two corpora share their bytes.
    """
    digest = hashlib.sha256()

    def write(*texts: str) -> None:
        digest.update(len(texts).to_bytes(8, "big"))
        for text in texts:
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)

    for part, tasks in (("train", train), ("unseen", unseen)):
        write(part)
        for task in tasks:
            write("task", task.name)
            for example in task.examples:
                write("example", example.id, example.instruction, example.input, example.category)
                write("references", *example.references)
                write("choices", *example.choices)
                write("history", *(text for turn in example.history for text in turn))
    return digest.hexdigest()


# The registry. A string is "module:class", imported on first use.
_SOURCES: dict[str, str | type[Source]] = {
    "embedded": "flexlora.tasks.embedded_source:Embedded",
    "jsonl": "flexlora.tasks.jsonl_source:JsonLines",
    "csv": "flexlora.tasks.csv_source:Csv",
    "parquet": "flexlora.tasks.parquet_source:Parquet",
    "huggingface": "flexlora.tasks.huggingface:HuggingFace",
    "dolly": "flexlora.tasks.dolly:Dolly",
    "natural_instructions": "flexlora.tasks.natural_instructions:NaturalInstructions",
}


def register(name: str, source: str | type[Source]) -> None:
    """Add a source, as a class or as "module:class". Raises ConfigError if the name is taken."""
    if name in _SOURCES:
        raise ConfigError(f"data source {name!r} is registered already; choose another name")
    _SOURCES[name] = source


def get_source(name: str) -> type[Source]:
    """Return a source's class. Raises ConfigError with the nearest known name."""
    if name not in _SOURCES:
        raise ConfigError(f"data source {name!r} is unknown; {nearest(name, _SOURCES)}")
    found = _SOURCES[name]
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = cast("type[Source]", getattr(importlib.import_module(module), attribute))
    return found


def open_source(name: str, options: Mapping[str, object]) -> Source:
    """Build the source `name` from its options.

    Raises ConfigError for an unknown source, an option that it does not know (with the nearest),
    and one that it needs but was not given.
    """
    cls = cast("Any", get_source(name))
    known = {field.name: field for field in fields(cls)}
    for key in options:
        if key not in known:
            raise ConfigError(f"data source {name!r} has no option {key!r}; {nearest(key, known)}")
    for key, field in known.items():
        required = field.default is MISSING and field.default_factory is MISSING
        if required and key not in options:
            raise ConfigError(f"data source {name!r} needs the option {key!r}; give it")
    return cast("Source", cls(**options))
