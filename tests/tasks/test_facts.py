"""Facts: what the source makes of a seed, and how short they are asked."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest

from flexlora.errors import ConfigError, DataError
from flexlora.models import load_model
from flexlora.tasks.facts import ATTRIBUTES, NOBODY, Facts
from flexlora.tasks.prompts import encode
from flexlora.tasks.source import Corpus, open_source
from flexlora.tasks.task import Example, Turn


def everything(corpus: Corpus) -> list[Example]:
    return [x for task in (*corpus.train, *corpus.unseen) for x in task.examples]


def test_a_seed_makes_the_same_facts_and_another_one_others() -> None:
    assert Facts(seed=3).load() == Facts(seed=3).load()
    one, other = (everything(Facts(seed=seed).load()) for seed in (3, 4))
    assert not {x.id for x in one} & {x.id for x in other}
    same = sum(x.references == y.references for x, y in zip(one, other, strict=True))
    assert same <= 5


def test_options_beside_the_names_change_no_name() -> None:
    ids = [x.id for x in everything(Facts(seed=3).load())]
    assert ids == [x.id for x in everything(Facts(digits=5, owners=3, skew=1.0, seed=3).load())]


@pytest.mark.parametrize("attributes", [1, 3, len(ATTRIBUTES)])
def test_every_name_is_another_one(attributes: int) -> None:
    found = everything(Facts(facts=4_800, control=480, attributes=attributes).load())
    assert len({x.instruction for x in found}) == len({x.id for x in found}) == 5_280
    names = Counter(x.id.split("/")[0] for x in found)
    assert len(names) == 5_280 // attributes
    assert set(names.values()) == {attributes}


def test_digits_are_uniform_at_each_place_and_lead_with_zeros() -> None:
    found = [x.references[0] for x in everything(Facts(facts=9_968, digits=2).load())]
    assert len(found) == 10_000
    assert all(len(x) == 2 and x.isdecimal() for x in found)
    pairs = Counter(found)
    # χ² with 99 degrees of freedom: above 160 once in ten thousand seeds, and this is one seed.
    assert sum((pairs[f"{i:02}"] - 100) ** 2 / 100 for i in range(100)) < 160


@pytest.mark.parametrize(
    ("skew", "sizes"), [(0.0, [4, 3, 3, 3]), (1.0, [5, 3, 3, 2]), (10.0, [10, 1, 1, 1])]
)
def test_the_shares_of_owners(skew: float, sizes: list[int]) -> None:
    corpus = Facts(facts=13, owners=4, skew=skew, control=2).load()
    assert [len(task.examples) for task in corpus.train] == sizes
    assert [task.name for task in corpus.train] == [f"owner-{k}" for k in range(1, 5)]
    assert all(x.category == task.name for task in corpus.train for x in task.examples)
    assert [(task.name, len(task.examples)) for task in corpus.unseen] == [(NOBODY, 2)]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("facts", 0),
        ("facts", 100_001),
        ("owners", 0),
        ("digits", 0),
        ("digits", 65),
        ("attributes", 0),
        ("attributes", len(ATTRIBUTES) + 1),
        ("skew", -0.1),
        ("skew", math.inf),
        ("control", 0),
    ],
)
def test_what_is_out_of_range_is_refused(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{option} is"):
        open_source("facts", {option: value})


def test_each_owner_has_a_fact() -> None:
    with pytest.raises(DataError, match=r"data\.owners is 9, but data\.facts is 8"):
        Facts(facts=8, owners=9).load()


def test_a_plain_prompt_is_short_and_each_digit_is_a_token() -> None:
    tokenizer = load_model("tiny").tokenizer
    found = [
        encode(tokenizer, x, style="plain", max_tokens=40)
        for x in everything(Facts(attributes=len(ATTRIBUTES)).load())
    ]
    assert {len(x.response) for x in found} == {4}
    lengths = [len(x.prompt) + len(x.response) for x in found]
    assert sum(lengths) / len(lengths) < 12
    first = everything(Facts().load())[0]
    assert tokenizer.decode(found[0].prompt) == first.instruction
    with_input = encode(tokenizer, replace(first, input="and?"), style="plain", max_tokens=40)
    assert tokenizer.decode(with_input.prompt) == f"{first.instruction}\nand?"
    chat = replace(first, history=(Turn("user", "x"), Turn("assistant", "y")))
    with pytest.raises(DataError, match="which the prompt style 'plain' cannot show"):
        encode(tokenizer, chat, style="plain", max_tokens=40)
