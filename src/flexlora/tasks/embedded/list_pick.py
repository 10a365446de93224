"""Pick one item of a list."""

from __future__ import annotations

import random

from flexlora.tasks.embedded import lexicon
from flexlora.tasks.embedded.family import (
    Family,
    Pair,
    TaskSpec,
    join,
    on_numbers,
    on_words,
    shuffled,
    words,
)


def _longest(rng: random.Random) -> Pair:
    while True:
        items = words(rng, 3, 5)
        lengths = sorted(len(item) for item in items)
        if lengths[-1] > lengths[-2]:  # one answer only
            return join(items), max(items, key=len)


def _the_animal(rng: random.Random) -> Pair:
    animal = rng.choice(lexicon.ANIMALS)
    others = words(rng, 2, 4, lexicon.FOODS + lexicon.OBJECTS + lexicon.PLACES)
    return join(shuffled(rng, [animal, *others])), animal


FAMILY = Family(
    name="list_pick",
    title="pick one item of a list",
    tasks=(
        TaskSpec(
            "first",
            "You are given a list of words. Answer with the first word of the list.",
            on_words(lambda items: items[0]),
        ),
        TaskSpec(
            "second",
            "You are given a list of words. Answer with the second word of the list.",
            on_words(lambda items: items[1]),
        ),
        TaskSpec(
            "last",
            "You are given a list of words. Answer with the last word of the list.",
            on_words(lambda items: items[-1]),
        ),
        TaskSpec(
            "longest",
            "You are given a list of words. Answer with the word that has the most letters.",
            _longest,
        ),
        TaskSpec(
            "the_animal",
            "Exactly one word of the list is an animal. Answer with that word.",
            _the_animal,
        ),
        TaskSpec(
            "largest_number",
            "You are given a list of numbers. Answer with the largest number.",
            on_numbers(lambda items: str(max(items))),
        ),
        TaskSpec(
            "smallest_number",
            "You are given a list of numbers. Answer with the smallest number.",
            on_numbers(lambda items: str(min(items))),
        ),
    ),
)
