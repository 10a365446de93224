"""What a family is, and the few helpers that all families share. Standard library only."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flexlora.errors import DataError
from flexlora.tasks.embedded import lexicon
from flexlora.tasks.task import Example, Task

# One draw: the input text and the one right answer.
Pair = tuple[str, str]
Draw = Callable[[random.Random], Pair]

# Draws in a row that bring nothing new before an input space counts as used up.
_PATIENCE = 2000


@dataclass(frozen=True)
class TaskSpec:
    """A task before its examples are drawn: `draw` must use only the generator it is given."""

    name: str
    definition: str
    draw: Draw


@dataclass(frozen=True)
class Family:
    """Tasks of one kind. `title` says in a few words what they have in common."""

    name: str
    title: str
    tasks: tuple[TaskSpec, ...]


def make_task(family: Family, spec: TaskSpec, examples: int, seed: int) -> Task:
    """Return `examples` examples with distinct inputs, a function of (names, examples, seed).

    A longer task of the same seed starts with the examples of the shorter one. Raises `DataError`
    when the task has too few distinct inputs.
    """
    name = f"{family.name}.{spec.name}"
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    rng = random.Random(int.from_bytes(digest[:8], "big"))
    drawn: dict[str, str] = {}
    misses = 0
    while len(drawn) < examples:
        text, answer = spec.draw(rng)
        if text in drawn:
            misses += 1
            if misses == _PATIENCE:
                raise DataError(
                    f"task {name}: found only {len(drawn)} distinct inputs of the {examples} "
                    f"asked for; ask for at most {len(drawn)} examples"
                )
            continue
        misses = 0
        drawn[text] = answer
    made = tuple(
        Example(f"{name}.{index}", spec.definition, text, (answer,), family.name)
        for index, (text, answer) in enumerate(drawn.items())
    )
    return Task(name, made)


def join(items: Sequence[str | int]) -> str:
    """Write a list the way all tasks do: "cat, sun, 7"."""
    return ", ".join(str(item) for item in items)


def words(
    rng: random.Random, low: int, high: int, pool: Sequence[str] = lexicon.WORDS
) -> list[str]:
    """Draw `low` to `high` distinct words."""
    return rng.sample(pool, rng.randint(low, high))


def numbers(rng: random.Random, low: int, high: int, top: int = 99) -> list[int]:
    """Draw `low` to `high` distinct numbers from 1 to `top`."""
    return rng.sample(range(1, top + 1), rng.randint(low, high))


def on_words(rule: Callable[[list[str]], str], low: int = 3, high: int = 5) -> Draw:
    """Make a draw whose input is a list of distinct words and whose answer is `rule` of it."""

    def draw(rng: random.Random) -> Pair:
        items = words(rng, low, high)
        return join(items), rule(items)

    return draw


def on_numbers(rule: Callable[[list[int]], str], low: int = 3, high: int = 5) -> Draw:
    """Make a draw whose input is a list of distinct numbers and whose answer is `rule` of it."""

    def draw(rng: random.Random) -> Pair:
        items = numbers(rng, low, high)
        return join(items), rule(items)

    return draw


def shuffled(rng: random.Random, items: Sequence[str]) -> list[str]:
    """Return the items in random order."""
    return rng.sample(items, len(items))
