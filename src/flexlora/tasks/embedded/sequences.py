"""Go on with a sequence, or fill a gap in it."""

from __future__ import annotations

import random

from flexlora.tasks.embedded import lexicon
from flexlora.tasks.embedded.family import Draw, Family, Pair, TaskSpec, join


def _count(rng: random.Random, length: int) -> list[int]:
    start, step = rng.randint(1, 60), rng.choice((1, 2, 5, 10))
    return [start + step * i for i in range(length)]


def _next_number(rng: random.Random) -> Pair:
    *given, answer = _count(rng, rng.randint(4, 5))
    return join(given), str(answer)


def _number_before(rng: random.Random) -> Pair:
    answer, *given = _count(rng, rng.randint(4, 5))
    return join(given), str(answer)


def _missing_number(rng: random.Random) -> Pair:
    items: list[str | int] = list(_count(rng, 5))
    gap = rng.randint(1, 3)
    answer, items[gap] = items[gap], "?"
    return join(items), str(answer)


def _pattern(rng: random.Random) -> Pair:
    unit = rng.sample(lexicon.WORDS, rng.randint(2, 3))
    length = rng.randint(len(unit) + 2, 7)
    items = [unit[i % len(unit)] for i in range(length + 1)]
    return join(items[:-1]), items[-1]


def _calendar(names: tuple[str, ...], sentence: str) -> Draw:
    def draw(rng: random.Random) -> Pair:
        at = rng.randrange(len(names))
        who, where = rng.choice(lexicon.NAMES), rng.choice(lexicon.PLACES)
        text = sentence.format(now=names[at], who=who, where=where)
        return text, names[(at + 1) % len(names)]

    return draw


FAMILY = Family(
    name="sequences",
    title="go on with a sequence",
    tasks=(
        TaskSpec("next_number", "Write the number that continues the sequence.", _next_number),
        TaskSpec(
            "number_before",
            "Write the number that stands just before the sequence starts.",
            _number_before,
        ),
        TaskSpec(
            "missing_number",
            "One number of the sequence is replaced by a question mark. Write that number.",
            _missing_number,
        ),
        TaskSpec("pattern", "The words repeat in a pattern. Write the next word.", _pattern),
        TaskSpec(
            "tomorrow",
            "The sentence says which day today is. Answer with the day of tomorrow.",
            _calendar(lexicon.WEEKDAYS, "Today is {now} and {who} is in the {where}."),
        ),
        TaskSpec(
            "next_month",
            "The sentence says which month it is. Answer with the month after it.",
            _calendar(lexicon.MONTHS, "It is {now} and {who} works in the {where}."),
        ),
    ),
)
