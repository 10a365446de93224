"""Rewrite a sentence."""

from __future__ import annotations

import random
from dataclasses import dataclass

from flexlora.tasks.embedded import lexicon
from flexlora.tasks.embedded.family import Family, Pair, TaskSpec


@dataclass(frozen=True)
class _Parts:
    name: str
    base: str
    past: str
    adjective: str
    noun: str


def _parts(rng: random.Random) -> _Parts:
    base, past = rng.choice(lexicon.VERBS)
    adjective, noun = rng.choice(lexicon.ADJECTIVES), rng.choice(lexicon.CONCRETE)
    return _Parts(rng.choice(lexicon.NAMES), base, past, adjective, noun)


def _negate(rng: random.Random) -> Pair:
    p = _parts(rng)
    return f"{p.name} {p.past} the {p.noun}.", f"{p.name} did not {p.base} the {p.noun}."


def _past(rng: random.Random) -> Pair:
    p = _parts(rng)
    return f"{p.name} will {p.base} the {p.noun}.", f"{p.name} {p.past} the {p.noun}."


def _ask(rng: random.Random) -> Pair:
    p = _parts(rng)
    return f"{p.name} {p.past} the {p.noun}.", f"Did {p.name} {p.base} the {p.noun}?"


def _swap_names(rng: random.Random) -> Pair:
    one, two = rng.sample(lexicon.NAMES, 2)
    p = _parts(rng)
    rest = f"{p.past} the {p.noun} with"
    return f"{one} {rest} {two}.", f"{two} {rest} {one}."


def _plural(rng: random.Random) -> Pair:
    p = _parts(rng)
    start = f"{p.name} {p.past} the {p.adjective}"
    return f"{start} {p.noun}.", f"{start} {lexicon.plural(p.noun)}."


def _opposite(rng: random.Random) -> Pair:
    p = _parts(rng)
    start = f"{p.name} {p.past} the"
    opposite = lexicon.OPPOSITE_OF[p.adjective]
    return f"{start} {p.adjective} {p.noun}.", f"{start} {opposite} {p.noun}."


def _drop_adjective(rng: random.Random) -> Pair:
    p = _parts(rng)
    start = f"{p.name} {p.past} the"
    return f"{start} {p.adjective} {p.noun}.", f"{start} {p.noun}."


FAMILY = Family(
    name="rewriting",
    title="rewrite a sentence",
    tasks=(
        TaskSpec(
            "negate",
            "Rewrite the sentence so that it says that this did not happen.",
            _negate,
        ),
        TaskSpec(
            "to_past",
            "The sentence speaks of the future. Rewrite it in the past tense.",
            _past,
        ),
        TaskSpec("ask", "Turn the sentence into a question that begins with did.", _ask),
        TaskSpec(
            "swap_names",
            "Rewrite the sentence with the two people in each other's place.",
            _swap_names,
        ),
        TaskSpec(
            "to_plural",
            "Rewrite the sentence so that there are several of the things it speaks of.",
            _plural,
        ),
        TaskSpec(
            "opposite",
            "Rewrite the sentence with the adjective replaced by its opposite.",
            _opposite,
        ),
        TaskSpec(
            "drop_adjective",
            "Rewrite the sentence without its adjective.",
            _drop_adjective,
        ),
    ),
)
