"""Say whether a statement about a given text is true or false."""

from __future__ import annotations

import random

from flexlora.tasks.embedded import lexicon
from flexlora.tasks.embedded.family import Family, Pair, TaskSpec, join, words

_THINGS = lexicon.OBJECTS + lexicon.CLOTHES


def _verdict(holds: bool) -> str:
    return "true" if holds else "false"


def _owns(rng: random.Random) -> Pair:
    people = words(rng, 2, 3, lexicon.NAMES)
    things = rng.sample(_THINGS, len(people))
    facts = " ".join(f"{p} has the {t}." for p, t in zip(people, things, strict=True))
    who, claimed = rng.randrange(len(people)), rng.randrange(len(people))
    if rng.random() < 0.3:
        claimed = who
    return f"{facts} Statement: {people[who]} has the {things[claimed]}.", _verdict(who == claimed)


def _contains(rng: random.Random) -> Pair:
    extra, *items = words(rng, 4, 5)
    holds = rng.random() < 0.5
    word = rng.choice(items) if holds else extra
    return f"{join(items)}. Statement: the list has the word {word}.", _verdict(holds)


def _larger(rng: random.Random) -> Pair:
    a, b = rng.sample(range(1, 100), 2)
    return f"{a} is larger than {b}.", _verdict(a > b)


def _kind(rng: random.Random) -> Pair:
    kind, other = rng.sample(("animal", "food", "job", "vehicle", "place"), 2)
    holds = rng.random() < 0.5
    word = rng.choice(lexicon.CATEGORIES[kind if holds else other])
    adjective = rng.choice(lexicon.ADJECTIVES)
    return f"The {adjective} {word} is a kind of {kind}.", _verdict(holds)


def _place(rng: random.Random) -> Pair:
    name, thing = rng.choice(lexicon.NAMES), rng.choice(_THINGS)
    place, other = rng.sample(lexicon.PLACES, 2)
    holds = rng.random() < 0.5
    _, past = rng.choice(lexicon.VERBS)
    claimed = place if holds else other
    text = f"{name} {past} the {thing} in the {place}."
    return f"{text} Statement: {name} was in the {claimed}.", _verdict(holds)


def _first(rng: random.Random) -> Pair:
    items = words(rng, 3, 4)
    claimed = items[0] if rng.random() < 0.5 else rng.choice(items[1:])
    return f"{join(items)}. Statement: {claimed} comes first.", _verdict(claimed == items[0])


FAMILY = Family(
    name="statements",
    title="true or false statements",
    tasks=(
        TaskSpec("owns", "Is the statement about who has what true or false?", _owns),
        TaskSpec("contains", "Is the statement about the list true or false?", _contains),
        TaskSpec("larger", "Is what is said about the two numbers true or false?", _larger),
        TaskSpec("kind", "Is the sentence about the meaning of a word true or false?", _kind),
        TaskSpec("place", "Does the statement name the right place? Say true or false.", _place),
        TaskSpec("first", "Does the statement name the first word? Say true or false.", _first),
    ),
)
