"""Put the items of a list into another order."""

from __future__ import annotations

from flexlora.tasks.embedded.family import Family, TaskSpec, join, on_numbers, on_words

FAMILY = Family(
    name="list_order",
    title="put the items of a list into another order",
    tasks=(
        TaskSpec(
            "reverse",
            "You are given a list of words. Write the list in reverse order, last word first.",
            on_words(lambda items: join(items[::-1])),
        ),
        TaskSpec(
            "alphabetical",
            "You are given a list of words. Sort the words in alphabetical order.",
            on_words(lambda items: join(sorted(items))),
        ),
        TaskSpec(
            "first_to_end",
            "Move the first word of the list to the end and keep the order of the other words.",
            on_words(lambda items: join([*items[1:], items[0]])),
        ),
        TaskSpec(
            "last_to_front",
            "Move the last word of the list to the front and keep the order of the other words.",
            on_words(lambda items: join([items[-1], *items[:-1]])),
        ),
        TaskSpec(
            "swap_first_two",
            "Swap the first two words of the list. All other words stay in their places.",
            on_words(lambda items: join([items[1], items[0], *items[2:]])),
        ),
        TaskSpec(
            "swap_ends",
            "Swap the first and the last word of the list. All other words stay in their places.",
            on_words(lambda items: join([items[-1], *items[1:-1], items[0]])),
        ),
        TaskSpec(
            "ascending",
            "You are given a list of numbers. Sort the numbers from smallest to largest.",
            on_numbers(lambda items: join(sorted(items))),
        ),
    ),
)
