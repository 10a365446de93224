"""Put a word, a number or a sentence into one of a few classes."""

from __future__ import annotations

import random

from flexlora.tasks.embedded import lexicon
from flexlora.tasks.embedded.family import Family, Pair, TaskSpec, join, shuffled


def _kind(rng: random.Random) -> Pair:
    kind = rng.choice(sorted(lexicon.CATEGORIES))
    return join(rng.sample(lexicon.CATEGORIES[kind], 2)), kind


def _odd_one_out(rng: random.Random) -> Pair:
    kind, other = rng.sample(sorted(lexicon.CATEGORIES), 2)
    odd = rng.choice(lexicon.CATEGORIES[other])
    return join(shuffled(rng, [odd, *rng.sample(lexicon.CATEGORIES[kind], 3)])), odd


def _question(rng: random.Random) -> Pair:
    name, thing = rng.choice(lexicon.NAMES), rng.choice(lexicon.CONCRETE)
    base, past = rng.choice(lexicon.VERBS)
    # Without the end mark: the order of the words has to tell.
    if rng.random() < 0.5:
        return f"did {name} {base} the {thing}", "question"
    return f"{name} {past} the {thing}", "statement"


def _mood(rng: random.Random) -> Pair:
    good = rng.random() < 0.5
    mood = rng.choice(lexicon.POSITIVE if good else lexicon.NEGATIVE)
    place, thing = rng.choice(lexicon.PLACES), rng.choice(lexicon.CONCRETE)
    return f"The {thing} in the {place} was {mood}.", "positive" if good else "negative"


def _parity(rng: random.Random) -> Pair:
    number = rng.randint(1, 999)
    return str(number), "odd" if number % 2 else "even"


def _alive(rng: random.Random) -> Pair:
    alive = rng.random() < 0.5
    noun = rng.choice(lexicon.ANIMALS + lexicon.JOBS if alive else lexicon.OBJECTS)
    return f"the {rng.choice(lexicon.ADJECTIVES)} {noun}", "alive" if alive else "thing"


def _time(rng: random.Random) -> Pair:
    name, thing = rng.choice(lexicon.NAMES), rng.choice(lexicon.CONCRETE)
    base, past = rng.choice(lexicon.VERBS)
    if rng.random() < 0.5:
        return f"{name} will {base} the {thing}.", "future"
    return f"{name} {past} the {thing}.", "past"


FAMILY = Family(
    name="classification",
    title="name the class of a word or sentence",
    tasks=(
        TaskSpec(
            "kind_of_words",
            "Say what both words are: animal, clothing, color, food, job, place or vehicle.",
            _kind,
        ),
        TaskSpec(
            "odd_one_out",
            "Three of the four words are of the same kind. Answer with the word that does not fit.",
            _odd_one_out,
        ),
        TaskSpec(
            "question_or_statement",
            "Decide if the words form a question or a statement.",
            _question,
        ),
        TaskSpec(
            "mood",
            "Decide if what the sentence says is positive or negative.",
            _mood,
        ),
        TaskSpec(
            "odd_or_even",
            "Decide if the number is odd or even.",
            _parity,
        ),
        TaskSpec(
            "alive_or_thing",
            "Decide if the words name someone alive or a thing. Answer alive or thing.",
            _alive,
        ),
        TaskSpec(
            "past_or_future",
            "Decide if the sentence speaks of the past or the future.",
            _time,
        ),
    ),
)
