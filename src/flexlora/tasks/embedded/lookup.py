"""Look something up in a small table that the input gives."""

from __future__ import annotations

import random

from flexlora.tasks.embedded import lexicon
from flexlora.tasks.embedded.family import Draw, Family, Pair, TaskSpec, numbers, words

_THINGS = lexicon.OBJECTS + lexicon.CLOTHES


def _owners(rng: random.Random) -> tuple[list[str], list[str], str]:
    owners = words(rng, 3, 4, lexicon.NAMES)
    things = rng.sample(_THINGS, len(owners))
    return owners, things, _table(owners, things)


def _prices(rng: random.Random) -> tuple[list[str], list[int], str]:
    things = words(rng, 3, 4, _THINGS)
    prices = numbers(rng, len(things), len(things))
    return things, prices, _table(things, [str(price) for price in prices])


def _table(left: list[str], right: list[str]) -> str:
    return ", ".join(f"{a}: {b}" for a, b in zip(left, right, strict=True))


def _thing_of(rng: random.Random) -> Pair:
    owners, things, table = _owners(rng)
    row = rng.randrange(len(owners))
    return f"{table}. Name: {owners[row]}", things[row]


def _owner_of(rng: random.Random) -> Pair:
    owners, things, table = _owners(rng)
    row = rng.randrange(len(owners))
    return f"{table}. Thing: {things[row]}", owners[row]


def _next_row(rng: random.Random) -> Pair:
    owners, _, table = _owners(rng)
    row = rng.randrange(len(owners) - 1)
    return f"{table}. Name: {owners[row]}", owners[row + 1]


def _price_of(rng: random.Random) -> Pair:
    things, prices, table = _prices(rng)
    row = rng.randrange(len(things))
    return f"{table}. Thing: {things[row]}", str(prices[row])


def _extreme(largest: bool) -> Draw:
    def draw(rng: random.Random) -> Pair:
        things, prices, table = _prices(rng)
        price = max(prices) if largest else min(prices)
        return table, things[prices.index(price)]

    return draw


FAMILY = Family(
    name="lookup",
    title="look something up in a small table",
    tasks=(
        TaskSpec(
            "thing_of",
            "A table says who owns what. Answer with the thing that the named person owns.",
            _thing_of,
        ),
        TaskSpec(
            "owner_of",
            "A table says who owns what. Answer with the person who owns the named thing.",
            _owner_of,
        ),
        TaskSpec(
            "next_row",
            "A table says who owns what. Answer with the person in the row after the named person.",
            _next_row,
        ),
        TaskSpec(
            "price_of",
            "A table gives the price of each thing. Answer with the price of the named thing.",
            _price_of,
        ),
        TaskSpec(
            "most_expensive",
            "A table gives the price of each thing. Answer with the thing that costs the most.",
            _extreme(largest=True),
        ),
        TaskSpec(
            "cheapest",
            "A table gives the price of each thing. Answer with the thing that costs the least.",
            _extreme(largest=False),
        ),
    ),
)
