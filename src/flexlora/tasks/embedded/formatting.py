"""Write the same words in another form."""

from __future__ import annotations

import random

from flexlora.tasks.embedded import lexicon
from flexlora.tasks.embedded.family import Family, Pair, TaskSpec, on_words


def _key_value(rng: random.Random) -> Pair:
    name, color = rng.choice(lexicon.NAMES), rng.choice(lexicon.COLORS)
    thing = rng.choice(lexicon.OBJECTS)
    return f"{name} has a {color} {thing}.", f"name: {name}, color: {color}, thing: {thing}"


FAMILY = Family(
    name="formatting",
    title="write the same words in another form",
    tasks=(
        TaskSpec(
            "with_and",
            "Join the words with the word and, without commas.",
            on_words(" and ".join, 3, 4),
        ),
        TaskSpec("dashes", "Join the words with dashes, without spaces.", on_words("-".join, 3, 4)),
        TaskSpec(
            "brackets",
            "Put each word in round brackets, with spaces between.",
            on_words(lambda items: " ".join(f"({item})" for item in items), 3, 4),
        ),
        TaskSpec(
            "numbered",
            "Write the number of its position before each word of the list.",
            on_words(lambda items: " ".join(f"{i} {w}" for i, w in enumerate(items, 1)), 3, 4),
        ),
        TaskSpec(
            "arrows",
            "Write the words in the same order with an arrow between them.",
            on_words(" -> ".join, 3, 4),
        ),
        TaskSpec(
            "key_value",
            "Write the name, the color and the thing of the sentence as a record.",
            _key_value,
        ),
    ),
)
