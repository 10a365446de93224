"""Small sums."""

from __future__ import annotations

import random
from collections.abc import Callable

from flexlora.tasks.embedded import lexicon
from flexlora.tasks.embedded.family import Draw, Family, Pair, TaskSpec


def _two(rule: Callable[[int, int], int], top: int = 25) -> Draw:
    """Two numbers, the larger first."""

    def draw(rng: random.Random) -> Pair:
        a, b = sorted((rng.randint(1, top), rng.randint(1, top)), reverse=True)
        return f"{a} and {b}", str(rule(a, b))

    return draw


def _one(rule: Callable[[int], int]) -> Draw:
    def draw(rng: random.Random) -> Pair:
        number = rng.randint(10, 899)
        return str(number), str(rule(number))

    return draw


def _story(more: bool) -> Draw:
    def draw(rng: random.Random) -> Pair:
        name, things = rng.choice(lexicon.NAMES), lexicon.plural(rng.choice(lexicon.OBJECTS))
        had, change = rng.randint(5, 12), rng.randint(1, 4)
        verb, after = ("buys", had + change) if more else ("sells", had - change)
        return f"{name} has {had} {things} and {verb} {change}.", str(after)

    return draw


FAMILY = Family(
    name="arithmetic",
    title="small sums",
    tasks=(
        TaskSpec("add", "Add the two numbers.", _two(lambda a, b: a + b, top=40)),
        TaskSpec(
            "difference",
            "Subtract the second number from the first number.",
            _two(lambda a, b: a - b, top=40),
        ),
        TaskSpec("one_more", "Write the number that is one larger.", _one(lambda n: n + 1)),
        TaskSpec("ten_more", "Write the number that is ten larger.", _one(lambda n: n + 10)),
        TaskSpec(
            "bought",
            "Someone buys more things. Say how many things this person has then.",
            _story(more=True),
        ),
        TaskSpec(
            "sold",
            "Someone sells some things. Say how many things this person has left.",
            _story(more=False),
        ),
    ),
)
