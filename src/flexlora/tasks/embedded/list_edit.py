"""Change a list by one item."""

from __future__ import annotations

import random
from collections.abc import Callable

from flexlora.tasks.embedded.family import Draw, Family, Pair, TaskSpec, join, on_words, words


def _with_new(rule: Callable[[list[str], str], list[str]]) -> Draw:
    """A list and a word that is not in it."""

    def draw(rng: random.Random) -> Pair:
        new, *items = words(rng, 4, 5)
        return f"{join(items)}. Word: {new}", join(rule(items, new))

    return draw


def _remove(rng: random.Random) -> Pair:
    items = words(rng, 3, 5)
    gone = rng.choice(items)
    return f"{join(items)}. Word: {gone}", join([item for item in items if item != gone])


def _double(rng: random.Random) -> Pair:
    items = words(rng, 3, 4)
    twice = rng.choice(items)
    doubled = [copy for item in items for copy in ([item, item] if item == twice else [item])]
    return f"{join(items)}. Word: {twice}", join(doubled)


FAMILY = Family(
    name="list_edit",
    title="change a list by one item",
    tasks=(
        TaskSpec(
            "append",
            "Add the named word at the end of the list.",
            _with_new(lambda items, new: [*items, new]),
        ),
        TaskSpec(
            "prepend",
            "Add the named word at the start of the list.",
            _with_new(lambda items, new: [new, *items]),
        ),
        TaskSpec(
            "replace_first",
            "Put the named word in place of the first word of the list.",
            _with_new(lambda items, new: [new, *items[1:]]),
        ),
        TaskSpec("remove", "Remove the named word from the list.", _remove),
        TaskSpec("double", "Write the list with the named word twice in a row.", _double),
        TaskSpec(
            "drop_last",
            "Write the list without its last word.",
            on_words(lambda items: join(items[:-1])),
        ),
    ),
)
