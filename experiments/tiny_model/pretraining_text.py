"""The text of the committed base model: its tokenizer and its pretraining. All is made here.

Plain text about the lexicon: sentences, tables, number lines, lists in several orders. On request
a share has the form of the training prompt, with tasks and definitions of its own, which differ
from the embedded tasks in what is asked and in how. Nothing here comes from the families kept for
development and for fresh clients.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TypeVar

from flexlora.tasks.embedded.family import join
from flexlora.tasks.embedded.lexicon import (
    ADJECTIVES,
    CATEGORIES,
    COLORS,
    CONCRETE,
    MONTHS,
    NAMES,
    NEGATIVE,
    OBJECTS,
    OPPOSITE_OF,
    PLACES,
    POSITIVE,
    VERBS,
    WEEKDAYS,
    WORDS,
    plural,
)

PROMPT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)

T = TypeVar("T")
Text = Callable[[random.Random], str]
Triple = Callable[[random.Random], tuple[str, str, str]]  # definition, input, response


# --- plain text ---------------------------------------------------------------------------------


def _story(rng: random.Random) -> str:
    lines = []
    for name in rng.sample(NAMES, rng.randint(2, 4)):
        base, past = rng.choice(VERBS)
        noun, adjective, place = rng.choice(CONCRETE), rng.choice(ADJECTIVES), rng.choice(PLACES)
        lines.append(
            rng.choice(
                (
                    f"{name} {past} the {adjective} {noun} in the {place}.",
                    f"On {rng.choice(WEEKDAYS)} {name} {past} the {noun}.",
                    f"{name} wanted to {base} the {noun}, but {name} did not {base} it.",
                    f"Did {name} {base} the {noun}? Yes, {name} {past} the {noun}.",
                    f"{name} will {base} the {noun}. Soon {name} {past} the {noun}.",
                    f"{name} {past} {rng.randint(2, 30)} {rng.choice(COLORS)} {plural(noun)}.",
                    f"Where was {name}? {name} was in the {place} with the {adjective} {noun}.",
                    f"The {noun} was {rng.choice(POSITIVE)} and {name} was happy.",
                    f"The {noun} was {rng.choice(NEGATIVE)} and {name} was sad.",
                )
            )
        )
    return " ".join(lines)


def _facts(rng: random.Random) -> str:
    lines = []
    for _ in range(4):
        kind = rng.choice(sorted(CATEGORIES))
        word, noun = rng.choice(CATEGORIES[kind]), rng.choice(CONCRETE)
        adjective, number = rng.choice(ADJECTIVES), rng.randint(2, 9)
        lines.append(
            rng.choice(
                (
                    f"{word}: {kind}.",
                    f"The {word} is of the kind {kind}.",
                    f"{kind}: {join(rng.sample(CATEGORIES[kind], 4))}.",
                    f"One {noun}, {number} {plural(noun)}.",
                    f"The plural of {noun} is {plural(noun)}.",
                    f"If it is not {adjective}, it is {OPPOSITE_OF[adjective]}.",
                    f"The word {word} has {len(word)} letters and starts with {word[0]}.",
                    f"{word}: {' '.join(word)}.",
                )
            )
        )
    return " ".join(lines)


def _number_line(rng: random.Random) -> str:
    lines = []
    for _ in range(3):
        a, b, step = rng.randint(1, 99), rng.randint(1, 99), rng.choice((1, 1, 2, 3, 4, 5, 10))
        small, large = sorted((a, b))
        line = join([a + step * i for i in range(6)])
        lines.append(
            rng.choice(
                (
                    f"{line}.",
                    f"{line}.",
                    f"{small} < {large}.",
                    f"{large} > {small}.",
                    f"{a} + {b} = {a + b}.",
                    f"{large} - {small} = {large - small}.",
                    f"{a + 100 * rng.randint(0, 8)} is {'odd' if a % 2 else 'even'}.",
                )
            )
        )
    return " ".join(lines)


def _calendar(rng: random.Random) -> str:
    names = rng.choice((WEEKDAYS, MONTHS))
    start = rng.randrange(len(names))
    return join([names[(start + i) % len(names)] for i in range(rng.randint(3, 8))]) + "."


def _table(rng: random.Random) -> str:
    owners = rng.sample(NAMES, rng.randint(2, 4))
    things: list[str | int] = list(rng.sample(OBJECTS, len(owners)))
    if rng.random() < 0.4:
        things = list(rng.sample(range(1, 100), len(owners)))
    rows = list(zip(owners, things, strict=True))
    order = rng.sample(rows, len(rows))
    facts = (f"{a} has {b}." if rng.random() < 0.5 else f"{b} is with {a}." for a, b in order)
    return ", ".join(f"{a}: {b}" for a, b in rows) + ". " + " ".join(facts)


def _list_talk(rng: random.Random) -> str:
    """Ground words such as list, order, first and number in what they speak of."""
    items, (a, b) = rng.sample(WORDS, rng.randint(3, 5)), rng.sample(range(1, 100), 2)
    name, other = rng.sample(NAMES, 2)
    says = [
        f"The first word of the list is {items[0]} and the second word is {items[1]}.",
        f"The last word of the list is {items[-1]}.",
        f"The list has {len(items)} words.",
        f"In reverse order the words are {join(items[::-1])}.",
        f"In alphabetical order the words are {join(sorted(items))}.",
        f"{max(items, key=len)} has the most letters.",
        f"Of the two numbers {a} and {b}, the number {max(a, b)} is larger.",
        f"Of the two numbers {a} and {b}, the number {min(a, b)} is smaller.",
        f"The sentence names two people, {name} and {other}.",
        f"The person who speaks is {name}, not {other}.",
    ]
    return f"List: {join(items)}. " + " ".join(rng.sample(says, rng.randint(2, 3)))


# Rules for pattern lines; the reader has to find the rule in the lines above.
_RULES: tuple[Callable[[list[str]], list[str]], ...] = (
    lambda w: w,
    lambda w: w[::-1],
    lambda w: sorted(w),
    lambda w: w[1:] + w[:1],
    lambda w: w[2:] + w[:2],
    lambda w: [w[1], w[0], *w[2:]],
    lambda w: [*w[:-2], w[-1], w[-2]],
    lambda w: [w[0]],
    lambda w: [w[1]],
    lambda w: [w[-1]],
    lambda w: w[::2],
    lambda w: w[:2],
    lambda w: [w[0], w[-1]],
    lambda w: [w[0], w[0]],
    lambda w: [max(w, key=len)],
    lambda w: [str(len(w))],
    lambda w: [x for x in w if len(x) > 4] or ["none"],
    lambda w: [x for x in w if x in CATEGORIES["food"]] or ["none"],
    lambda w: [x for x in w if x not in CATEGORIES["animal"]] or ["none"],
)


def _pattern_lines(rng: random.Random) -> str:
    rule, arrow = rng.choice(_RULES), rng.choice((" -> ", " = ", "; "))
    lines = []
    for _ in range(rng.randint(3, 5)):
        items = rng.sample(WORDS, rng.randint(3, 5))
        lines.append(join(items) + arrow + join(rule(items)))
    return "\n".join(lines)


def _number_patterns(rng: random.Random) -> str:
    rules: tuple[Callable[[list[int]], list[int]], ...] = (
        lambda n: sorted(n),
        lambda n: sorted(n)[::-1],
        lambda n: [max(n)],
        lambda n: [min(n)],
        lambda n: [n[0] + 1],
    )
    rule = rng.choice(rules)
    lines = []
    for _ in range(rng.randint(3, 5)):
        items = rng.sample(range(1, 100), rng.randint(2, 4))
        lines.append(f"{join(items)} -> {join(rule(items))}")
    return "\n".join(lines)


PLAIN: tuple[tuple[float, Text], ...] = (
    (3, _story),
    (2, _facts),
    (1.5, _number_line),
    (0.3, _calendar),
    (1.5, _table),
    (2, _list_talk),
    (4, _pattern_lines),
    (1.5, _number_patterns),
)


# --- instruction form ---------------------------------------------------------------------------


def _line(rng: random.Random, low: int = 3, high: int = 5) -> list[str]:
    return rng.sample(WORDS, rng.randint(low, high))


def _neighbour(rng: random.Random) -> tuple[str, str, str]:
    items = _line(rng)
    at = rng.randrange(len(items) - 1)
    a, b = items[at], items[at + 1]
    if rng.random() < 0.5:
        return f"Which word of the list comes right after {a}?", join(items), b
    return f"Which word of the list comes right before {b}?", join(items), a


def _copy(rng: random.Random) -> tuple[str, str, str]:
    text = rng.choice((join(_line(rng)), _story(rng).split(".")[0] + "."))
    return rng.choice(("Copy the text.", "Say the same again, unchanged.")), text, text


def _exchange(rng: random.Random) -> tuple[str, str, str]:
    new, *items = _line(rng, 4, 5)
    old = rng.choice(items)
    out = [new if item == old else item for item in items]
    return f"Write {new} wherever the text has {old}.", join(items), join(out)


def _insert(rng: random.Random) -> tuple[str, str, str]:
    new, *items = _line(rng, 3, 4)
    out = [word for item in items for word in (item, new)]
    return f"Write the word {new} after each of the words.", join(items), join(out)


def _position(rng: random.Random) -> tuple[str, str, str]:
    items = _line(rng, 4, 5)
    if rng.random() < 0.5:
        return "What is the third word of the list?", join(items), items[2]
    return "What are the third and the fourth word?", join(items), join(items[2:4])


def _member(rng: random.Random) -> tuple[str, str, str]:
    kind, *others = rng.sample(("food", "job", "vehicle", "color", "clothing", "place"), 4)
    word = rng.choice(CATEGORIES[kind])
    items = [word, *(rng.choice(CATEGORIES[other]) for other in others)]
    return f"Find the {kind} in this line.", join(rng.sample(items, len(items))), word


def _label(rng: random.Random) -> tuple[str, str, str]:
    one, two = rng.sample(sorted(CATEGORIES), 2)
    x, y = rng.sample(("A", "B", "yes", "no", "1", "2", "left", "right"), 2)
    first = rng.random() < 0.5
    word = rng.choice(CATEGORIES[one if first else two])
    return f"Reply {x} to each {one} and {y} to each {two}.", word, x if first else y


def _form(rng: random.Random) -> tuple[str, str, str]:
    noun, adjective = rng.choice(CONCRETE), rng.choice(ADJECTIVES)
    base, past = rng.choice(VERBS)
    return rng.choice(
        (
            ("What do we call several of these?", noun, plural(noun)),
            ("What is the opposite?", adjective, OPPOSITE_OF[adjective]),
            ("Which form of this verb tells of yesterday?", base, past),
            ("Which letter does the word begin with?", noun, noun[0]),
            ("How many letters are in the word?", noun, str(len(noun))),
            ("Spell the word letter by letter.", noun, " ".join(noun)),
        )
    )


def _reader(rng: random.Random) -> tuple[str, str, str]:
    one, two = rng.sample(NAMES, 2)
    a, b = rng.sample(CONCRETE, 2)
    place, other = rng.sample(PLACES, 2)
    text = f"{one} is in the {place} with the {a}. {two} is in the {other} with the {b}."
    return rng.choice(
        (
            (f"In which place can we meet {two}?", text, other),
            (f"In which place can we meet {one}?", text, place),
            (f"Who is there with the {b}?", text, two),
            (f"Who is there with the {a}?", text, one),
        )
    )


def _speak(rng: random.Random) -> tuple[str, str, str]:
    base, past = rng.choice(VERBS)
    name, noun, other = rng.choice(NAMES), rng.choice(CONCRETE), rng.choice(NAMES)
    text, soon = f"{name} {past} the {noun}.", f"{name} will soon {base} the {noun}."
    return rng.choice(
        (
            (f"Tell the same about {other}.", text, f"{other} {past} the {noun}."),
            ("Change the sentence: it will happen soon.", text, soon),
            ("Let the person wish to do this.", text, f"{name} wishes to {base} the {noun}."),
            ("Say the sentence two times.", text, f"{text} {text}"),
        )
    )


def _figures(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.randint(1, 40), rng.randint(1, 40)
    line = rng.sample(range(1, 100), 4)
    return rng.choice(
        (
            ("Work this out.", f"{a} + {b}", str(a + b)),
            ("Work this out.", f"{a + b} - {b}", str(a)),
            ("What is the number before this one?", str(a + 100), str(a + 99)),
            ("Write the first two figures only.", join(line), join(line[:2])),
            ("Write the numbers from high to low.", join(line), join(sorted(line)[::-1])),
        )
    )


TASKS: tuple[tuple[float, Triple], ...] = (
    (2, _neighbour),
    (1, _copy),
    (1, _exchange),
    (1, _insert),
    (1, _position),
    (2, _member),
    (1, _label),
    (2, _form),
    (2, _reader),
    (2, _speak),
    (1.5, _figures),
)


def _pick(rng: random.Random, table: tuple[tuple[float, T], ...]) -> T:
    return rng.choices([item for _, item in table], [weight for weight, _ in table])[0]


def documents(seed: int, instruction_share: float) -> Iterator[str]:
    """Yield documents without end, a function of seed and share alone.

    `instruction_share` of them have the form of the training prompt, the others are plain text.
    """
    rng = random.Random(seed)
    while True:
        if rng.random() < instruction_share:
            definition, text, response = _pick(rng, TASKS)(rng)
            yield PROMPT.format(instruction=definition, input=text) + response
        else:
            yield _pick(rng, PLAIN)(rng)
