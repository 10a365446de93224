"""Names and values of others in an error: short whatever they are, and nothing hidden in them."""

from __future__ import annotations

import pytest

from flexlora.errors import SHOWN, cut_short, seen, shown

NAMES = {
    "plain": "a column of mine",
    "blank at its end": "a column ",
    "empty": "",
    "long": "x" * 1000,
    "a turned line": "\u202e" * 100,
    "hidden far behind": "x" * 100 + "\u202e",
    "quotes and escapes": "'\\\"\n" * 50,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_is_short_and_all_of_it_is_seen(name: str) -> None:
    for told in (seen(name), shown(name)):
        assert 0 < len(told) <= SHOWN
        assert told.isprintable()


def test_what_can_be_seen_stays_as_it_is() -> None:
    assert seen("a column of mine") == "a column of mine"
    assert seen("a column ") == "'a column '"
    assert seen("") == "''"
    assert seen("a\u202eb") == "'a\\u202eb'"
    assert seen("x" * 1000) == "x" * (SHOWN - 1) + "…"


def test_a_cut_is_marked() -> None:
    assert cut_short("abc", 3) == "abc"
    assert cut_short("abcd", 3) == "ab…"


def test_a_value_that_python_does_not_write_is_told_too() -> None:
    assert shown(10**10_000) == "int of great length"
    assert shown(["x" * 1000]).endswith("…")
