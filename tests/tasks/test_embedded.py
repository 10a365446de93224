"""Embedded tasks: counts, splits, determinism, and answers checked by other means."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexlora.errors import DataError
from flexlora.tasks.embedded import (
    DEVELOPMENT_FAMILIES,
    FAMILIES,
    FRESH_FAMILIES,
    TRAIN_FAMILIES,
    embedded_tasks,
)
from flexlora.tasks.embedded.lexicon import CATEGORIES, CONCRETE, OPPOSITES, VERBS, WORDS
from flexlora.tasks.task import Task

ALL = tuple(FAMILIES)
TASKS = {task.name: task for task in embedded_tasks(ALL, 120, seed=3)}
PAST = {past: base for base, past in VERBS}

_DIGEST = """
import hashlib
from flexlora.tasks.embedded import FAMILIES, embedded_tasks
print(hashlib.sha256(repr(embedded_tasks(tuple(FAMILIES), 20, 5)).encode()).hexdigest())
"""


def _list(text: str) -> list[str]:
    return text.split(", ")


def test_splits_are_whole_disjoint_and_large_enough() -> None:
    splits = (TRAIN_FAMILIES, DEVELOPMENT_FAMILIES, FRESH_FAMILIES)
    named = [name for split in splits for name in split]
    assert sorted(named) == sorted(FAMILIES)
    assert len(set(named)) == len(named)
    assert len(TRAIN_FAMILIES) >= 8
    assert len(DEVELOPMENT_FAMILIES) >= 2
    assert len(FRESH_FAMILIES) >= 2
    assert sum(len(FAMILIES[name].tasks) for name in TRAIN_FAMILIES) >= 60


def test_names_and_definitions_are_unique() -> None:
    assert len({task.examples[0].instruction for task in TASKS.values()}) == len(TASKS) >= 72
    for name, family in FAMILIES.items():
        assert family.name == name
        assert len({spec.name for spec in family.tasks}) == len(family.tasks) >= 6


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_examples_are_short_distinct_and_answered(task: Task) -> None:
    assert task.name.split(".")[0] == task.examples[0].category
    assert len(task.examples) == 120
    assert len({example.input for example in task.examples}) == 120
    assert len({example.id for example in task.examples}) == 120
    for example in task.examples:
        assert len(example.input.split()) <= 25
        assert len(example.references) == 1
        (answer,) = example.references
        assert answer == answer.strip() != ""


def test_every_task_has_400_inputs() -> None:
    for task in embedded_tasks(ALL, 400, seed=0):
        assert len({example.input for example in task.examples}) == 400


def test_same_tasks_in_any_process() -> None:
    expected = hashlib.sha256(repr(embedded_tasks(ALL, 20, 5)).encode()).hexdigest()
    path = os.pathsep.join(sys.path)
    for hash_seed in ("1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


def test_torch_is_not_imported() -> None:
    code = "import sys, flexlora.tasks.embedded; assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(families=st.permutations(ALL), size=st.integers(1, 5), seed=st.integers(-9, 2**70))
def test_a_task_depends_on_nothing_but_itself(families: list[str], size: int, seed: int) -> None:
    random.seed(size)  # the global generator must not matter
    state = random.getstate()
    together = embedded_tasks(families[:3], size, seed)
    alone = tuple(task for name in families[:3] for task in embedded_tasks([name], size, seed))
    assert together == alone
    assert random.getstate() == state


def test_seed_and_length() -> None:
    (short, *_), (longer, *_) = embedded_tasks(ALL[:1], 5, 1), embedded_tasks(ALL[:1], 9, 1)
    assert longer.examples[:5] == short.examples
    assert embedded_tasks(ALL[:1], 5, 2)[0].examples != short.examples
    assert embedded_tasks([], 5, 2) == ()


@pytest.mark.parametrize(
    ("families", "examples", "message"),
    [
        (["list_ordr"], 5, "did you mean 'list_order'"),
        (["list_order", "list_order"], 5, "named twice"),
        (["list_order"], 0, "examples is 0"),
        (["arithmetic"], 5000, r"task arithmetic\.\w+: found only \d+ .* at most \d+ examples"),
    ],
)
def test_refusals(families: list[str], examples: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        embedded_tasks(families, examples, 0)


# Each answer again, by another road than the generator's.
def _reverse(text: str) -> str:
    out: list[str] = []
    for word in _list(text):
        out.insert(0, word)
    return ", ".join(out)


def _lookup(text: str) -> str:
    table, key = re.fullmatch(r"(.*)\. \w+: (\w+)", text).groups()  # type: ignore[union-attr]
    return dict(row.split(": ") for row in _list(table))[key]


def _owner(text: str) -> str:
    table, key = text.split(". Thing: ")
    return re.search(rf"(\w+): {key}\b", table).group(1)  # type: ignore[union-attr]


def _largest_price(text: str) -> str:
    return max(_list(text), key=lambda row: int(row.split(": ")[1])).split(": ")[0]


def _odd_one_out(text: str) -> str:
    kinds = {word: kind for kind, group in CATEGORIES.items() for word in group}
    found = [kinds[word] for word in _list(text)]
    return next(w for w, kind in zip(_list(text), found, strict=True) if found.count(kind) == 1)


def _negate(text: str) -> str:
    name, past, rest = text.split(" ", 2)
    return f"{name} did not {PAST[past]} {rest}"


def _ask(text: str) -> str:
    name, past, rest = text.rstrip(".").split(" ", 2)
    return f"Did {name} {PAST[past]} {rest}?"


def _opposite(text: str) -> str:
    pairs = dict(OPPOSITES) | {b: a for a, b in OPPOSITES}
    return re.sub(r"the (\w+)", lambda found: f"the {pairs[found[1]]}", text)


def _add(text: str) -> str:
    a, b = text.split(" and ")
    return str(len("x" * int(a) + "x" * int(b)))


def _sold(text: str) -> str:
    had, gone = map(int, re.findall(r"\d+", text))
    return str(had - gone)


def _missing(text: str) -> str:
    items = _list(text)
    gap = items.index("?")
    return str((int(items[gap - 1]) + int(items[gap + 1])) // 2)


def _removed(text: str) -> str:
    line, gone = text.split(". Word: ")
    items = _list(line)
    items.remove(gone)
    return ", ".join(items)


def _owns(text: str) -> str:
    facts, claim = text.split(" Statement: ")
    return "true" if claim in re.findall(r"\w+ has the \w+\.", facts) else "false"


def _number_claim(text: str) -> str:
    a, b = map(int, re.findall(r"\d+", text))
    return "false" if b >= a else "true"


ORACLES: dict[str, Callable[[str], str]] = {
    "list_order.reverse": _reverse,
    "list_order.swap_ends": lambda t: re.sub(r"^(\w+)(.*, )(\w+)$", r"\3\2\1", t),
    "list_order.last_to_front": lambda t: re.sub(r"^(.*), (\w+)$", r"\2, \1", t),
    "list_pick.second": lambda t: t.split(",")[1].strip(),
    "list_pick.longest": lambda t: sorted(_list(t), key=lambda w: -len(w))[0],
    "list_filter.vowel_start": lambda t: ", ".join(re.findall(r"\b[aeiou]\w*", t)),
    "list_filter.long_words": lambda t: ", ".join(re.findall(r"\w{5,}", t)),
    "list_filter.even_numbers": lambda t: ", ".join(re.findall(r"\b\d*[02468]\b", t)),
    "lookup.thing_of": _lookup,
    "lookup.price_of": _lookup,
    "lookup.owner_of": _owner,
    "lookup.most_expensive": _largest_price,
    "comparison.same_start": lambda t: "yes" if t[0] == _list(t)[1][0] else "no",
    "comparison.larger_number": lambda t: str(sorted(map(int, _list(t)))[1]),
    "classification.odd_one_out": _odd_one_out,
    "classification.odd_or_even": lambda t: "even" if t[-1] in "02468" else "odd",
    "rewriting.negate": _negate,
    "rewriting.ask": _ask,
    "rewriting.opposite": _opposite,
    "counting.items": lambda t: str(t.count(",") + 1),
    "counting.times": lambda t: str(len(re.findall(rf"\b{t.split(': ')[1]}\b", t)) - 1),
    "counting.people": lambda t: str(t.count(" and ") + 1),
    "extraction.how_many": lambda t: re.findall(r"\d+", t)[0],
    "extraction.when": lambda t: re.findall(r"\w+day", t)[0],
    "arithmetic.add": _add,
    "arithmetic.sold": _sold,
    "sequences.missing_number": _missing,
    "list_edit.remove": _removed,
    "list_edit.drop_last": lambda t: t[: t.rindex(",")],
    "statements.owns": _owns,
    "statements.larger": _number_claim,
    "formatting.dashes": lambda t: t.replace(", ", "-"),
    "formatting.brackets": lambda t: "(" + t.replace(", ", ") (") + ")",
}


@pytest.mark.parametrize("name", ORACLES)
def test_answers_are_right(name: str) -> None:
    for example in TASKS[name].examples:
        assert example.references == (ORACLES[name](example.input),), example


@pytest.mark.parametrize(
    "name",
    [
        "comparison.same_start",
        "comparison.same_kind",
        "comparison.same_thing",
        "classification.mood",
        "classification.alive_or_thing",
        "classification.past_or_future",
        "statements.owns",
        "statements.contains",
        "statements.place",
        "statements.first",
    ],
)
def test_two_answers_are_about_as_frequent(name: str) -> None:
    answers = [example.references[0] for example in TASKS[name].examples]
    assert len(set(answers)) == 2
    assert 0.3 < answers.count(answers[0]) / len(answers) < 0.7


def test_a_word_has_one_category() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert set(CONCRETE) <= set(WORDS)
