"""The seam for data: a source loads a corpus of tasks. Adding one is a class and a line here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, cast

from flexlora.options import MANY, Option
from flexlora.registry import Registry
from flexlora.tasks.task import Task


@dataclass(frozen=True)
class Corpus:
    """What a source yields: tasks to train on, tasks that nobody trains on, and what it is.

    `fingerprint` names the content (see `fingerprint`); `notes` are sentences for the run's record
    about what was left out or is missing. recalled: what the clients are trained on is what they
    are scored on, all of it: a measure of memory. No part of it is set aside.
    """

    train: tuple[Task, ...]
    unseen: tuple[Task, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    recalled: bool = False

    @staticmethod
    def of(
        train: Iterable[Task],
        unseen: Iterable[Task],
        notes: Iterable[str] = (),
        *,
        recalled: bool = False,
    ) -> Corpus:
        """Build a corpus and its fingerprint."""
        train, unseen = tuple(train), tuple(unseen)
        return Corpus(train, unseen, fingerprint(train, unseen), tuple(notes), recalled)


# Options that several sources have.
Share = Annotated[
    float | None,
    Option("share of each task's examples that is used; none: all", above=0.0, most=1.0),
]
LeastExamples = Annotated[
    int, Option("leave out tasks that hold fewer; 0: leave none out", least=0, most=MANY)
]


class Source(Protocol):
    """A data source: a frozen dataclass whose fields are its options, and `seed`.

    Each field says its type, range and meaning (`options.Option`); the config is held to them.
    """

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
                write("history")
                for turn in example.history:
                    write("turn", *turn)
                if example.type:
                    write("type", example.type)
    return digest.hexdigest()


SOURCES: Registry[type[Source]] = Registry("data source", "data.source")
"""Name → class. Each is imported when it is first asked for."""

# An argument of sources that is no option: a run derives it from federation.seed.
SEED = "seed"


def register(name: str, source: str | type[Source]) -> None:
    """Add a source, as a class or as "module:class". Raises ConfigError if another has the name."""
    if isinstance(source, str):
        module, _, attribute = source.partition(":")
        SOURCES.add_later(name, module, attribute)
    else:
        SOURCES.add(name, source)


def open_source(name: str, options: Mapping[str, Any]) -> Source:
    """Build the source `name` from its options and its `seed`.

    Raises ConfigError for an unknown source, and for an option that is unknown, missing, of
    another type or out of range.
    """
    return cast("Source", SOURCES.make(name, options))


register("embedded", "flexlora.tasks.embedded_source:Embedded")
register("facts", "flexlora.tasks.facts:Facts")
register("jsonl", "flexlora.tasks.jsonl_source:JsonLines")
register("rows", "flexlora.tasks.rows_source:HeldRows")
register("csv", "flexlora.tasks.csv_source:Csv")
register("parquet", "flexlora.tasks.parquet_source:Parquet")
register("huggingface", "flexlora.tasks.huggingface:HuggingFace")
register("dolly", "flexlora.tasks.dolly:Dolly")
register("natural_instructions", "flexlora.tasks.natural_instructions:NaturalInstructions")
