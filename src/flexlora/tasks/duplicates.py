"""Examples that are scored though the same ones are trained on: counted, and left out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flexlora.errors import DataError, shown
from flexlora.tasks.clients import Client
from flexlora.tasks.task import Example

_Key = tuple[str, ...]


def exact(example: Example) -> _Key:
    """All that training learns from: the prompt, what was said before it, the first response."""
    before = (text for turn in example.history for text in turn)
    return (*before, example.instruction, example.input, example.references[0])


def near(example: Example) -> _Key:
    """The same, but for blanks and capitals."""
    return tuple(" ".join(text.split()).casefold() for text in exact(example))


@dataclass(frozen=True)
class Parted:
    """Clients that train, clients kept out to validate, unseen ones, without what is not scored.

    notes: how many examples come again where they should not, and what was done, in sentences.
    """

    clients: tuple[Client, ...]
    kept_out: tuple[Client, ...]
    unseen: tuple[Client, ...]
    notes: tuple[str, ...]


def parted(
    clients: Sequence[Client], kept_out: Sequence[Client], unseen: Sequence[Client], how: str
) -> Parted:
    """Look for examples of validation, test and unseen parts that are trained on, too.

    how: "drop" leaves them out of what is scored, "keep" scores them all the same, "refuse" raises
    DataError. Training is never changed. Raises DataError, too, where no unseen example is left.
    """
    trained: dict[_Key, str] = {}
    words: set[_Key] = set()
    again = 0
    for client in clients:
        for example in client.train:
            key = near(example)
            again += key in trained
            trained.setdefault(key, f"{shown(example.id)} of client {shown(client.id)}")
            words.add(exact(example))
    groups: Mapping[str, Iterable[Example]] = {
        "validation": [x for c in clients for x in c.validation]
        + [x for c in kept_out for x in c.test],
        "own test": [x for c in clients for x in c.test],
        "unseen": [x for c in unseen for x in c.test],
    }
    notes = [_again(again, sum(len(c.train) for c in clients))] if again else []
    found = {name: _found(list(part), trained, words, name, how) for name, part in groups.items()}
    notes += [words for words in found.values() if words]
    if how != "drop" or not any(found.values()):
        return Parted(tuple(clients), tuple(kept_out), tuple(unseen), tuple(notes))
    left = tuple(c for c in (_left(c, trained) for c in unseen) if c.test)
    if unseen and not left:
        raise DataError(
            "every unseen example is trained on, too; keep others apart, or set data.duplicates to "
            "'keep'"
        )
    return Parted(
        tuple(_left(c, trained) for c in clients),
        tuple(_left(c, trained) for c in kept_out),
        left,
        tuple(notes),
    )


def _found(
    part: Sequence[Example],
    trained: Mapping[_Key, str],
    words: Collection[_Key],
    name: str,
    how: str,
) -> str:
    same = [example for example in part if near(example) in trained]
    if not same:
        return ""
    literally = sum(exact(example) in words for example in same)
    told = f"{len(same):,} of {len(part):,} {name} examples are trained on, too"
    told += "" if literally == len(same) else f" ({literally:,} of them word for word)"
    if how == "refuse":
        first = same[0]
        raise DataError(
            f"{told}: {shown(first.id)} is {trained[near(first)]}; take them out, or set "
            "data.duplicates to 'drop' or 'keep'"
        )
    done = "not scored" if how == "drop" else "scored all the same"
    return f"{told}: {done} (data.duplicates)"


def _again(count: int, examples: int) -> str:
    return f"{count:,} of {examples:,} training examples say what another one says; they train, too"


def _left(client: Client, trained: Collection[_Key]) -> Client:
    """Without what is scored and trained on."""
    validation, test = (
        tuple(example for example in part if near(example) not in trained)
        for part in (client.validation, client.test)
    )
    return replace(client, validation=validation, test=test)
