"""Take one piece of information out of a sentence."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from flexlora.tasks.embedded import lexicon
from flexlora.tasks.embedded.family import Draw, Family, Pair, TaskSpec


@dataclass(frozen=True)
class _Event:
    who: str
    number: str
    color: str
    what: str
    where: str
    day: str


# The parts stand in another place in each form, so that no fixed position gives the answer.
_FORMS: tuple[Callable[[_Event, str], str], ...] = (
    lambda e, v: f"On {e.day} {e.who} {v} {e.number} {e.color} {e.what} in the {e.where}.",
    lambda e, v: f"In the {e.where} {e.who} {v} {e.number} {e.color} {e.what} on {e.day}.",
    lambda e, v: f"{e.who} {v} {e.number} {e.color} {e.what} on {e.day} in the {e.where}.",
)


def _take(part: Callable[[_Event], str]) -> Draw:
    def draw(rng: random.Random) -> Pair:
        event = _Event(
            who=rng.choice(lexicon.NAMES),
            number=str(rng.randint(2, 30)),
            color=rng.choice(lexicon.COLORS),
            what=lexicon.plural(rng.choice(lexicon.OBJECTS + lexicon.CLOTHES)),
            where=rng.choice(lexicon.PLACES),
            day=rng.choice(lexicon.WEEKDAYS),
        )
        _, verb = rng.choice(lexicon.VERBS)
        return rng.choice(_FORMS)(event, verb), part(event)

    return draw


FAMILY = Family(
    name="extraction",
    title="take one piece of information out of a sentence",
    tasks=(
        TaskSpec("who", "Read the sentence and say who did it.", _take(lambda e: e.who)),
        TaskSpec("where", "Read the sentence and say where it happened.", _take(lambda e: e.where)),
        TaskSpec("when", "Read the sentence and say on which day it was.", _take(lambda e: e.day)),
        TaskSpec(
            "what",
            "Read the sentence and say which things it speaks of.",
            _take(lambda e: e.what),
        ),
        TaskSpec(
            "how_many",
            "Read the sentence and say how many things there were.",
            _take(lambda e: e.number),
        ),
        TaskSpec(
            "color",
            "Read the sentence and say which color the things have.",
            _take(lambda e: e.color),
        ),
    ),
)
