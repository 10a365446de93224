"""The source "facts": made-up names and random digits, for measuring how much can be stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch

from flexlora.errors import DataError
from flexlora.options import Option, require
from flexlora.partition.dirichlet import largest_remainder
from flexlora.partition.split import named_generator
from flexlora.tasks.source import Corpus
from flexlora.tasks.task import Example, Task

NOBODY = "nobody"  # Whose the facts are that are never taught.
# What may be known of a name; the first are one token each in most tokenizers.
ATTRIBUTES = ("number", "key", "line", "day", "house", "street", "code", "year")
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_SYLLABLES = tuple(c + v for c in _CONSONANTS for v in _VOWELS)
_LENGTH = 3  # syllables of a name
MOST = 100_000  # facts; there are 343,000 names

_NOTE = (
    "every fact is trained on, and the same facts are scored as the clients' own: that is recall, "
    "not generalisation"
)


@dataclass(frozen=True)
class Facts:
    """Facts that only their owner can teach: "Tavike number:" → "407".

    Nothing but memory helps: names are made of random syllables, all different, and digits are
    drawn uniformly and independently. So what there is to learn is known, log₂(10) bits a digit,
    and the metric `bits` says how much of it was learned. Each owner is one client and one
    category. Every fact is trained on and scored (`Corpus.recalled`); the unseen ones are `control`
    further facts that nobody owns, of which nothing can be learned.

    A name's facts stand next to each other, so that at most one name is shared by two owners at
    each border between them.
    """

    facts: Annotated[
        int, Option("facts that are taught, of all owners together", least=1, most=MOST)
    ] = 128
    owners: Annotated[int, Option("clients that the facts are dealt to", least=1, most=MOST)] = 8
    digits: Annotated[int, Option("digits of each fact's answer", least=1, most=64)] = 3
    attributes: Annotated[
        int, Option("facts that a name has", least=1, most=float(len(ATTRIBUTES)))
    ] = 1
    skew: Annotated[
        float,
        Option(
            "how unequally facts are dealt: owner k is dealt one, and of the others a share that "
            "is as k to the minus skew; 0: equally",
            least=0.0,
            most=10.0,
        ),
    ] = 0.0
    control: Annotated[
        int,
        Option("facts that nobody owns, scored as unseen ones", least=1, most=MOST),
    ] = 32
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, "data")

    def load(self) -> Corpus:
        """Make the facts: a function of the options alone. Raises DataError for too many owners."""
        if self.owners > self.facts:
            raise DataError(
                f"data.owners is {self.owners}, but data.facts is {self.facts}, and each owner has "
                "at least one; lower data.owners or raise data.facts"
            )
        made = self._made(self.facts + self.control)
        width = len(str(self.owners))
        taught = [
            _task(f"owner-{number + 1:0{width}d}", [next(made) for _ in range(count)])
            for number, count in enumerate(self._shares())
        ]
        return Corpus.of(taught, [_task(NOBODY, list(made))], [_NOTE], recalled=True)

    def _shares(self) -> Sequence[int]:
        """Facts of each owner: one, and of the others a share, by largest remainder."""
        weights = [number**-self.skew for number in range(1, self.owners + 1)]
        shares = [weight / sum(weights) for weight in weights]
        more = largest_remainder(shares, self.facts - self.owners)
        return [1 + count for count in more]

    def _made(self, count: int) -> Iterator[tuple[str, str, str]]:
        """(name, attribute, digits) of so many facts, names all different."""
        names = torch.randperm(
            len(_SYLLABLES) ** _LENGTH, generator=named_generator(self.seed, "facts/names")
        )
        digits = torch.randint(
            10, (count, self.digits), generator=named_generator(self.seed, "facts/digits")
        )
        for place, answer in enumerate(digits.tolist()):
            name, attribute = divmod(place, self.attributes)
            yield _name(int(names[name])), ATTRIBUTES[attribute], "".join(map(str, answer))


def _name(number: int) -> str:
    """The name of this number, each number another one."""
    syllables = []
    for _ in range(_LENGTH):
        number, place = divmod(number, len(_SYLLABLES))
        syllables.append(_SYLLABLES[place])
    return "".join(syllables).capitalize()


def _task(owner: str, facts: Sequence[tuple[str, str, str]]) -> Task:
    """The prompt ends with a mark that no tokenizer joins with a digit, and has no input."""
    return Task(
        owner,
        tuple(
            Example(f"{name}/{attribute}", f"{name} {attribute}:", "", (digits,), category=owner)
            for name, attribute, digits in facts
        ),
    )
