"""Which entry of PEFT's pattern tables a layer gets: PEFT's own rule is the oracle."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexlora.formats import layer_patterns
from flexlora.formats.layer_patterns import LONGEST, MOST_EXPRESSIONS, LayerPatterns

PARTS = [
    "a",
    "b",
    "0",
    "1",
    "_",
    "-",
    ".",
    r"\.",
    r"\d",
    r"\w",
    ".*",
    ".+",
    "[ab]",
    "[^a.]",
    "(a|b)",
]
PARTS += ["(?:0|1)", "a?", "b*", "0{1,2}", "|", "^", "$", r"\_", r"\-", "é", "a)|(b", "[]a]", ".*?"]
patterns = st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map("".join)
names = st.text("ab01_-.", min_size=1, max_size=7)


def peft(table: dict[str, Any], name: str) -> Any:
    """As PEFT finds it."""
    for key, value in table.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return None


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(patterns, min_size=1, max_size=4, unique=True), st.lists(names, max_size=8))
def test_what_is_found_is_what_peft_finds(keys: list[str], layers: list[str]) -> None:
    table = {key: place for place, key in enumerate(keys)}
    try:
        found = LayerPatterns(table)
    except ValueError:  # Not every one of them is an expression.
        return
    for name in [*layers, *(re.sub(r"[\\^$]", "", key) for key in keys)]:
        if name.isascii():
            assert found.of(name, None) == peft(table, name), (table, name)


PLAIN = ["q_proj", "layers.1.q_proj", r"layers\.1\.q_proj", "^layers.1.q", r"^model\.q\-1", "a b/c"]


@pytest.mark.parametrize("key", PLAIN)
def test_plain_names_are_looked_up(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_patterns, "_compiled", lambda key: pytest.fail(f"{key} is run"))
    found = LayerPatterns({key: 1})
    plain = re.sub(r"[\\^]", "", key)
    for name in (plain, f"model.{plain}", f"x{plain}", plain[1:], plain + "x", "layers_1.q_proj"):
        assert found.of(name, None) == peft({key: 1}, name), name


def test_a_thousand_layers_with_a_pattern_each_need_one_look_each() -> None:
    """As our own adapters have them, and with dots that are not escaped."""
    layers = [f"model.layers.{i}.mlp.p{i % 7}" for i in range(5000)]
    for write in (lambda name: "^" + re.escape(name), str):
        found = LayerPatterns({write(name): place for place, name in enumerate(layers)})
        assert [found.of(name, None) for name in layers] == list(range(5000))
        assert found.of("model.layers.5000.mlp.p0", None) is None
        assert sum(map(len, found._names.values())) <= 4


NONE = ["(", ")", "a**", "a{2}{3}", "a*+", "(?!a)b", "(?<=a)b", r"(a)\1", "(?i)a", "a{,3}"]
NONE += ["a{99999}", "[[:alpha:]]", r"\Qa\E", r"\pL", r"\x41", "[a", "a|*", "é+", "(" * 990]
NONE += [
    "((a{900}){900}){900}",
    "(a?){999}",
    "(.?.?){99}" * 90,
    "a}",
    "a]",
    "a++",
    "(?P<x>a)",
    "\\",
]


@pytest.mark.parametrize("key", NONE)
def test_what_is_no_expression_or_none_of_linear_time_is_refused(key: str) -> None:
    with pytest.raises(ValueError) as caught:
        LayerPatterns({"q": 1, key: 2})
    assert repr(key)[:50] in str(caught.value)
    assert str(caught.value).isprintable()


def test_limits() -> None:
    with pytest.raises(ValueError, match=f"longer than {LONGEST} characters"):
        LayerPatterns({"a" * (LONGEST + 1): 1})
    table = {rf"a+\.{i}": i for i in range(MOST_EXPRESSIONS)}
    assert LayerPatterns(table).of("aa.7", None) == 7
    with pytest.raises(ValueError, match=f"more than {MOST_EXPRESSIONS} expressions; write out"):
        LayerPatterns(table | {"b+": 1})
    shapes = {"a" * i + "." + "b" * j: 1 for i in range(1, 30) for j in range(1, 30)}
    with pytest.raises(ValueError, match=f"more than {MOST_EXPRESSIONS} expressions"):
        LayerPatterns(shapes)


@pytest.mark.parametrize("name", ["a\n", "é", "a\x1b"])
def test_a_name_that_expressions_would_read_in_two_ways_is_refused(name: str) -> None:
    assert LayerPatterns({}).of(name, 3) == 3
    with pytest.raises(ValueError, match="which no expression can be held against"):
        LayerPatterns({".+": 1}).of(name, 3)
