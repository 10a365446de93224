"""Examples that are scored though the same ones are trained on: counted, and left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flexlora.errors import DataError, shown
from flexlora.tasks.clients import Client
from flexlora.tasks.task import Example
from flexlora.tasks.trained import UNTRAINED, Trained

_Key = tuple[str, ...]
_UNKNOWN = (
    "what was trained on before this run begins is not all known here: some of what is scored may "
    "be among it"
)


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

    trained: what is trained on here, beside what was before. told: how many examples come again
    where they should not, and what was done, in sentences, by what they are of ("unseen", …).
    """

    clients: tuple[Client, ...]
    kept_out: tuple[Client, ...]
    unseen: tuple[Client, ...]
    trained: Trained
    told: Mapping[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.told.values())


def parted(
    clients: Sequence[Client],
    kept_out: Sequence[Client],
    unseen: Sequence[Client],
    how: str,
    before: Trained = UNTRAINED,
) -> Parted:
    """Look for examples of validation, test and unseen parts that are trained on, too.

    how: "drop" leaves them out of what is scored, "keep" scores them all the same, "refuse" raises
    DataError. before: what was trained on by what a run begins from. Training is never changed.
    Raises DataError, too, where no unseen example is left.
    """
    looked = _Looked(how, before)
    again = looked.train(clients)
    groups: Mapping[str, list[Example]] = {
        "validation": [x for c in clients for x in c.validation]
        + [x for c in kept_out for x in c.test],
        "own test": [x for c in clients for x in c.test],
        "unseen": [x for c in unseen for x in c.test],
    }
    told = {"training": _again(again, sum(len(c.train) for c in clients))} if again else {}
    found = {name: looked.told(name, part) for name, part in groups.items()}
    told |= {name: words for name, words in found.items() if words}
    if not before.whole and any(groups.values()):
        told["before"] = _UNKNOWN
    trained = before | Trained.of(looked.trained)
    if how != "drop" or not any(found.values()):
        return Parted(tuple(clients), tuple(kept_out), tuple(unseen), trained, told)
    left = tuple(c for c in (looked.left(c) for c in unseen) if c.test)
    if unseen and not left:
        raise DataError(
            "every unseen example is trained on, too, or was before this run begins; keep others "
            "apart, or set data.duplicates to 'keep'"
        )
    return Parted(
        tuple(map(looked.left, clients)), tuple(map(looked.left, kept_out)), left, trained, told
    )


class _Looked:
    """What is trained on, and what of other parts is."""

    def __init__(self, how: str, before: Trained) -> None:
        self._how, self._before = how, before
        self.trained: dict[_Key, str] = {}
        self._words: set[_Key] = set()

    def train(self, clients: Sequence[Client]) -> int:
        """Take in what these train on; how many examples say what another one does."""
        again = 0
        for client in clients:
            for example in client.train:
                key = near(example)
                again += key in self.trained
                self.trained.setdefault(key, f"{shown(example.id)} of client {shown(client.id)}")
                self._words.add(exact(example))
        return again

    def told(self, name: str, part: Sequence[Example]) -> str:
        """Of how many examples that is so, and what is done. Raises DataError by `how`."""
        keys = [(example, near(example)) for example in part]
        same = [example for example, key in keys if key in self.trained]
        earlier = [x for x, key in keys if key not in self.trained and self._before.holds(key)]
        if not same and not earlier:
            return ""
        told = []
        if same:
            literally = sum(exact(example) in self._words for example in same)
            few = "" if literally == len(same) else f" ({literally:,} of them word for word)"
            told.append(f"{len(same):,} of {len(part):,} {name} examples are trained on, too{few}")
        if earlier:
            many = f"{len(earlier):,} of {len(part):,} {name} examples"
            told.append(f"{many} were trained on before this run begins")
        words = " and ".join(told)
        if self._how == "refuse":
            first = (same or earlier)[0]
            which = f"is {self.trained[near(first)]}" if same else "is the first of them"
            raise DataError(
                f"{words}: {shown(first.id)} {which}; take them out, or set data.duplicates to "
                "'drop' or 'keep'"
            )
        done = "not scored" if self._how == "drop" else "scored all the same"
        return f"{words}: {done} (data.duplicates)"

    def left(self, client: Client) -> Client:
        """Without what is scored and trained on."""
        validation, test = (
            tuple(example for example in part if not self._is_trained(near(example)))
            for part in (client.validation, client.test)
        )
        return replace(client, validation=validation, test=test)

    def _is_trained(self, key: _Key) -> bool:
        return key in self.trained or self._before.holds(key)


def _again(count: int, examples: int) -> str:
    return f"{count:,} of {examples:,} training examples say what another one says; they train, too"
