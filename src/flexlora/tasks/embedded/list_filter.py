"""Keep the items of a list that meet a condition. At least one item always does."""

from __future__ import annotations

import random
from collections.abc import Callable

from flexlora.tasks.embedded import lexicon
from flexlora.tasks.embedded.family import (
    Draw,
    Family,
    Pair,
    TaskSpec,
    join,
    numbers,
    shuffled,
    words,
)


def _keep_words(condition: Callable[[str], bool]) -> Draw:
    def draw(rng: random.Random) -> Pair:
        while True:
            items = words(rng, 3, 5)
            kept = [item for item in items if condition(item)]
            if 0 < len(kept) < len(items):
                return join(items), join(kept)

    return draw


def _keep_numbers(condition: Callable[[int], bool]) -> Draw:
    def draw(rng: random.Random) -> Pair:
        while True:
            items = numbers(rng, 3, 5)
            kept = [item for item in items if condition(item)]
            if 0 < len(kept) < len(items):
                return join(items), join(kept)

    return draw


def _category(category: tuple[str, ...], keep: bool) -> Draw:
    others = tuple(word for word in lexicon.WORDS if word not in category)

    def draw(rng: random.Random) -> Pair:
        members = words(rng, 1, 2, category)
        items = shuffled(rng, members + words(rng, 1, 3, others))
        return join(items), join([item for item in items if (item in members) == keep])

    return draw


def _no_repeats(rng: random.Random) -> Pair:
    items = words(rng, 3, 4)
    repeated = [*items, *rng.sample(items, rng.randint(1, 2))]
    rng.shuffle(repeated)
    return join(repeated), join(list(dict.fromkeys(repeated)))


FAMILY = Family(
    name="list_filter",
    title="keep the items of a list that meet a condition",
    tasks=(
        TaskSpec(
            "vowel_start",
            "Keep only the words that start with a vowel: a, e, i, o or u.",
            _keep_words(lambda item: item[0] in "aeiou"),
        ),
        TaskSpec(
            "long_words",
            "Keep only the words of the list that have more than four letters.",
            _keep_words(lambda item: len(item) > 4),
        ),
        TaskSpec(
            "no_repeats",
            "Some words of the list come more than once. Write every word only once, in the "
            "order in which it first comes.",
            _no_repeats,
        ),
        TaskSpec(
            "only_animals",
            "Keep only the animals of the list and leave out all other words.",
            _category(lexicon.ANIMALS, keep=True),
        ),
        TaskSpec(
            "no_colors",
            "Leave out all colors of the list and keep the other words.",
            _category(lexicon.COLORS, keep=False),
        ),
        TaskSpec(
            "even_numbers",
            "You are given a list of numbers. Keep only the even numbers.",
            _keep_numbers(lambda item: item % 2 == 0),
        ),
        TaskSpec(
            "above_fifty",
            "You are given a list of numbers. Keep only the numbers that are larger than 50.",
            _keep_numbers(lambda item: item > 50),
        ),
    ),
)
