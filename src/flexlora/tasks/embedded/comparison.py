"""Compare two things."""

from __future__ import annotations

import random

from flexlora.tasks.embedded import lexicon
from flexlora.tasks.embedded.family import Family, Pair, TaskSpec, join, on_numbers, words


def _longer_word(rng: random.Random) -> Pair:
    while True:
        items = words(rng, 2, 2)
        if len(items[0]) != len(items[1]):
            return join(items), max(items, key=len)


def _same_word(rng: random.Random) -> Pair:
    first, other = words(rng, 2, 2)
    same = rng.random() < 0.5
    second = first if same else other
    return f"the {rng.choice(lexicon.COLORS)} {first}, the {second}", "same" if same else "other"


def _same_start(rng: random.Random) -> Pair:
    first = rng.choice(lexicon.WORDS)
    alike = rng.random() < 0.5
    pool = [w for w in lexicon.WORDS if w != first and (w[0] == first[0]) == alike]
    if not pool:  # a letter with one word
        return _same_start(rng)
    return f"{first}, {rng.choice(pool)}", "yes" if alike else "no"


def _same_kind(rng: random.Random) -> Pair:
    kind, other = rng.sample(sorted(lexicon.CATEGORIES), 2)
    first, second = rng.sample(lexicon.CATEGORIES[kind], 2)
    alike = rng.random() < 0.5
    if not alike:
        second = rng.choice(lexicon.CATEGORIES[other])
    return f"{first}, {second}", "yes" if alike else "no"


def _older(rng: random.Random) -> Pair:
    one, two = words(rng, 2, 2, lexicon.NAMES)
    if rng.random() < 0.5:
        return f"{one} is older than {two}.", one
    return f"{one} is younger than {two}.", two


FAMILY = Family(
    name="comparison",
    title="compare two things",
    tasks=(
        TaskSpec(
            "larger_number",
            "You are given two numbers. Answer with the larger number.",
            on_numbers(lambda items: str(max(items)), 2, 2),
        ),
        TaskSpec(
            "smaller_number",
            "You are given two numbers. Answer with the smaller number.",
            on_numbers(lambda items: str(min(items)), 2, 2),
        ),
        TaskSpec(
            "longer_word",
            "You are given two words. Answer with the word that has more letters.",
            _longer_word,
        ),
        TaskSpec(
            "same_thing",
            "Two things are named, the first with its color. Answer same if both are the same "
            "kind of thing, and other if not.",
            _same_word,
        ),
        TaskSpec(
            "same_start",
            "You are given two words. Answer yes if they start with the same letter, else no.",
            _same_start,
        ),
        TaskSpec(
            "same_kind",
            "Answer yes if the two words are of the same kind, such as two animals or two foods, "
            "else no.",
            _same_kind,
        ),
        TaskSpec(
            "older_person",
            "A sentence compares the age of two people. Answer with the older person.",
            _older,
        ),
    ),
)
