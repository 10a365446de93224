"""Nothing that a config holds is too large for us: it is refused by name, or costs nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from config.every_key import Key, every_key
from flexlora.config.config import Config
from flexlora.config.config_file import make_config
from flexlora.config.schedule import validates, validations
from flexlora.config.settings import rule_of, screens_of
from flexlora.errors import ConfigError, InputError
from flexlora.federation import Session
from flexlora.federation.setup import Setup, prepare

KEYS = {key.id: key for key in every_key()}
NUMBERS = [key for key in KEYS.values() if key.numbers]
COUNTS = (-1, 0, 1, 10**6, 10**9, 10**18, 2**63 - 1, 2**63, -(10**30), 10**5000)
AMOUNTS = (-1.0, 0.0, 5e-324, 1e-300, 1e-6, 0.5, 1e3, 1e6, 1e30, 1e300, 1.7e308, math.inf, math.nan)
OTHERS: Mapping[str, Any] = {
    "long": "x" * 10**6,
    "longest": "\u202e" * 4096,
    "NUL": "a\0b",
    "half": "a\ud800",
    "lines": "a\nb\x1b[2J",
    "dots": "." * 300,
    "nothing": "",
    "nobody": "~nobody-of-this-name/x",
    "table": {"x": {"y": [1]}},
    "bytes": b"x",
    "object": object(),
}


def deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(10**5):
        found = [found]
    return found


BASE: dict[str, dict[str, Any]] = {
    "data": {"train_tasks": 3, "unseen_tasks": 1, "examples_per_task": 12},
    "clients": {"scale": 0.05},
    "run": {"threads": 1},
}


@pytest.fixture(scope="module")
def known() -> Setup:
    return prepare(make_config(**BASE), outline=True)


def document(key: Key, value: Any) -> dict[str, Any]:
    given = key.set(value)
    if key.table == "data" and key.chosen and key.chosen[0][1] != "embedded":
        return given  # A source of its own, of a path that does not exist.
    return {**BASE, **{name: BASE.get(name, {}) | table for name, table in given.items()}}


def read(tables: Mapping[str, Any]) -> tuple[Config | None, str]:
    """The config with its rule and screens made, or one sentence that refuses it."""
    try:
        config = make_config(**tables)
        rule_of(config.rule)
        screens_of(config.screens)
    except ConfigError as error:
        words = str(error)
        return None, words if "\n" not in words and len(words) < 1500 else ""
    return config, ""


def refused_or_prepared(key: Key, value: Any, like: Setup) -> None:
    """It ends in one sentence that names the key, or is prepared."""
    config, words = read(document(key, value))
    if config is None:
        assert key.name in words
        return
    assert make_config(**config.document()) == config
    if config.data.source == "embedded":  # The others have no data here.
        with suppress(InputError):
            Session.of(config, like).preview()


@pytest.mark.parametrize("key", NUMBERS, ids=lambda key: key.id)
def test_every_number_has_a_least_and_a_most(key: Key) -> None:
    for kind, (least, most) in key.numbers:
        assert -math.inf < least, f"{key.id} as {kind.__name__} has no least"
        assert most < math.inf, f"{key.id} as {kind.__name__} has no most"
        assert least <= most


@pytest.mark.parametrize("key", NUMBERS, ids=lambda key: key.id)
def test_a_number_beyond_its_range_is_refused_by_name(key: Key) -> None:
    least = min(limits[0] for _, limits in key.numbers)
    most = max(limits[1] for _, limits in key.numbers)
    for value in (least - 1, 2 * most + 1, *COUNTS, *AMOUNTS):
        if least <= value <= most:
            continue
        given = [value] if key.name == "decay_rounds" else value
        config, words = read(document(key, given))
        assert config is None, f"{key.id} takes {value}"
        assert key.name in words


@pytest.mark.parametrize("key", NUMBERS, ids=lambda key: key.id)
def test_the_limits_are_prepared(key: Key, known: Setup) -> None:
    for kind, limits in key.numbers:
        for value in map(kind, limits):
            given = [value] if key.name == "decay_rounds" else value
            if not key.name.endswith("examples_per_task"):  # Those take their seconds.
                refused_or_prepared(key, given, known)


@pytest.mark.soak
@pytest.mark.parametrize("key", NUMBERS, ids=lambda key: key.id)
def test_extreme_numbers_are_refused_or_prepared(key: Key, known: Setup) -> None:
    limits = [x for _, (least, most) in key.numbers for x in (least, most)]
    exact = [int(x) for x in limits if x == int(x)]
    for value in (*COUNTS, *AMOUNTS, *limits, *exact):
        given = [value] if key.name == "decay_rounds" else value
        refused_or_prepared(key, given, known)


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.id)
def test_other_values_are_refused_or_prepared(key: Key, known: Setup) -> None:
    for value in OTHERS.values():
        refused_or_prepared(key, value, known)


@pytest.mark.parametrize("table", sorted({key.table for key in KEYS.values()}))
def test_what_is_far_too_much_is_refused_unread(table: str) -> None:
    """Whatever the key, which is named all the same."""
    key = next(key for key in KEYS.values() if key.table == table)
    endless: list[Any] = []
    endless.append(endless)
    wide = {str(i): 1 for i in range(10**5)}
    for value in (["x"] * 10**6, [10**9] * 10**6, ["x" * 4000] * 1000, deep(), endless, wide):
        config, words = read(document(key, value))
        assert config is None
        assert key.name in words


@pytest.mark.parametrize("value", [0, -1, 10**7, 10**18, 2**63, 10**40])
def test_ranks_have_a_least_and_a_most(value: int) -> None:
    for types in ({"a": value}, {"a": {"attention": 2, "all": value}}):
        config, words = read({"clients": {"mix": {"a": 1.0}, "types": types}})
        assert config is None
        assert "rank" in words or "clients.types.a" in words


@pytest.mark.parametrize("value", [-0.1, 1.1, 1e308, math.inf, math.nan])
def test_shares_have_a_least_and_a_most(value: float) -> None:
    mix = {"type1": value, "type2": value, "type4": 1.0}
    config, words = read({"clients": {"mix": mix}})
    assert config is None
    assert "clients" in words


def test_rounds_that_will_be_validated_are_not_counted_one_by_one() -> None:
    for after in range(9):
        for every in range(7):
            for rounds in range(1, 14):
                wanted = sum(validates(n, every, rounds) for n in range(after + 1, rounds + 1))
                assert validations(after, every, rounds) == wanted
    assert validations(7, 3, 10**300) == (10**300 - 7) // 3 + 1
