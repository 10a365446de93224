"""Count what meets a condition. Answers are digits."""

from __future__ import annotations

import random

from flexlora.tasks.embedded import lexicon
from flexlora.tasks.embedded.family import (
    Draw,
    Family,
    Pair,
    TaskSpec,
    join,
    on_numbers,
    on_words,
    shuffled,
    words,
)


def _category(category: tuple[str, ...]) -> Draw:
    others = tuple(word for word in lexicon.WORDS if word not in category)

    def draw(rng: random.Random) -> Pair:
        members, rest = words(rng, 0, 3, category), words(rng, 1, 3, others)
        return join(shuffled(rng, members + rest)), str(len(members))

    return draw


def _times(rng: random.Random) -> Pair:
    word, *others = words(rng, 2, 4)
    times = rng.randint(1, 4)
    return f"{join(shuffled(rng, [word] * times + others))}. Word: {word}", str(times)


def _names(rng: random.Random) -> Pair:
    people = words(rng, 1, 4, lexicon.NAMES)
    who = " and ".join(people)
    return f"{who} went to the {rng.choice(lexicon.PLACES)}.", str(len(people))


FAMILY = Family(
    name="counting",
    title="count what meets a condition",
    tasks=(
        TaskSpec(
            "items",
            "Count how many words the list has.",
            on_words(lambda items: str(len(items)), 2, 6),
        ),
        TaskSpec("animals", "Count how many animals the list has.", _category(lexicon.ANIMALS)),
        TaskSpec("foods", "Count how many foods the list has.", _category(lexicon.FOODS)),
        TaskSpec("times", "Count how many times the named word comes in the list.", _times),
        TaskSpec("people", "Count how many people the sentence names.", _names),
        TaskSpec(
            "above_fifty",
            "Count how many numbers of the list are larger than 50.",
            on_numbers(lambda items: str(sum(item > 50 for item in items)), 2, 5),
        ),
    ),
)
