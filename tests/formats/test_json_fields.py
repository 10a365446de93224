"""Entries of a JSON object: taken where they are of the type that is wanted, else named."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from flexlora.formats import json_fields


def test_what_is_of_its_type_is_taken() -> None:
    record = {"t": "x", "w": 3, "n": 2.5, "l": ["a"], "o": {"k": 1}, "z": None}
    assert json_fields.text(record, "t") == "x"
    assert json_fields.whole(record, "w") == 3
    assert json_fields.number(record, "n") == 2.5
    assert math.isnan(json_fields.number(record, "z"))
    assert json_fields.texts(record, "l") == ("a",)
    assert json_fields.counts(record, "o") == {"k": 1}
    assert json_fields.numbers(record, "o") == {"k": 1.0}


WRONG: list[tuple[Callable[..., object], Any, str]] = [
    (json_fields.text, 3, "x is 3, expected a text"),
    (json_fields.whole, 3.0, "x is 3.0, expected a whole number"),
    (json_fields.whole, True, "x is True, expected a whole number"),
    (json_fields.number, "3", "x is '3', expected a number"),
    (json_fields.number, 10**400, "x is 1000000"),
    (json_fields.number, 10**5000, "x is int of great length, expected a number that a float"),
    (json_fields.numbers, {"k": -(10**400)}, "x.k is -1000000"),
    (json_fields.texts, "abc", "x is 'abc', expected a list of texts"),
    (json_fields.table, [1], "x is [1], expected an object"),
    (json_fields.items, {"k": 1}, "x is {'k': 1}, expected a list"),
    (json_fields.tables, [{}, 3], "x is 3, expected an object"),
    (json_fields.counts, {"k": 1.5}, "x.k is 1.5, expected a whole number"),
]


@pytest.mark.parametrize(("read", "value", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_not_is_named_and_cut_short(
    read: Callable[..., object], value: Any, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        read({"x": value}, "x")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 150


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="x is missing"):
        json_fields.number({}, "x")
    with pytest.raises(ValueError, match=r"\[3\] stands where x of an object is read"):
        json_fields.number([3], "x")  # type: ignore[arg-type]  # As JSON may hold anything.


@pytest.mark.parametrize("key", ["(" * 9999, "\x1b[2J", "x" * 9999])
def test_a_key_that_others_wrote_is_quoted_short(key: str) -> None:
    for read in (json_fields.numbers, json_fields.counts):
        with pytest.raises(ValueError, match="is 'a', expected a") as caught:
            read({"scales": {key: "a"}}, "scales")
        assert len(str(caught.value)) < 200
        assert str(caught.value).isprintable()
