"""Config files and overrides of any make-up: prepared, or refused in one sentence."""

from __future__ import annotations

import random
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from config.every_key import Key, every_key
from flexlora.config.config import Config
from flexlora.config.config_file import load_config, make_config
from flexlora.config.toml import to_toml
from flexlora.errors import ConfigError, InputError
from flexlora.federation import Session
from flexlora.federation.setup import Setup, prepare

KEYS = tuple(every_key())
NUMBERS = tuple(key for key in KEYS if key.numbers)
BASE = """
[data]
train_tasks = 3
unseen_tasks = 1
examples_per_task = 12
[clients]
mix = {weak = 0.5, strong = 0.5}
types = {weak = 2, strong = {attention = 3, all = 5}}
[screens]
norm_clip = {factor = 3.0}
[training]
decay_rounds = [2, 4]
[run]
threads = 1
"""
PIECES = (
    *("[", "]", "{", "}", "=", ",", ".", "\n", '"', "'", '"""', "'''", "#", "\\", "\\u0000", "\0"),
    *("0", "-1", "1e309", "9" * 40, "9" * 5000, "0x" + "f" * 40, "nan", "inf", "-inf", "1e-320"),
    *("true", "[[a]]", "[run]", "1979-05-27T07:32:00", "a.b.c", "é", "\u202e", "\x1b[2J", "﻿"),
    *("[" * 3000, "a." * 80, "x" * 5000, "~nobody/x", "../" * 30, "/dev/zero", "none", "auto"),
)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    path = tmp_path_factory.mktemp("base") / "c.toml"
    path.write_text(BASE)
    return prepare(load_config(path), outline=True)


def a_value(draw: random.Random, key: Key) -> Any:
    kind = draw.randrange(8)
    if key.numbers and kind < 5:
        number, limits = draw.choice(key.numbers)
        near = draw.choice([*limits, 1, 2, 7, 0.3] * 3 + [10**12, 2**63 - 1, 2**63, 1e300])
        value = number(near) * draw.choice((1, 1, 1, 1, 1, 1, -1, 2))
        return [value] if draw.random() < 0.1 or key.name == "decay_rounds" else value
    if kind == 5:
        return {draw.choice("ab"): draw.choice([1, 0.5, "x", -1, []])}
    if kind == 6:
        return [draw.choice(["x", 1, 0.5, True, []])] * draw.choice((0, 1, 3, 100))
    return draw.choice([True, False, "", "x", "auto", "none", "tiny", "a\tb", 0, 1, -1, 0.0, 1.0])


def a_document(draw: random.Random) -> str:
    """Tables of keys that there are, each of any value, at places damaged."""
    tables = tomllib.loads(BASE) if draw.random() < 0.9 else {}
    for key in draw.sample([*NUMBERS, *KEYS], draw.choice((1, 1, 2, 3))):
        for name, table in key.set(a_value(draw, key)).items():
            same = "source" not in table or table["source"] == "embedded"
            tables[name] = (tables.get(name, {}) if same else {}) | table
    text = to_toml(tables)
    return text if draw.random() < 0.6 else damaged(draw, text)


def damaged(draw: random.Random, text: str) -> str:
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(text) + 1)
        until = at + draw.choice((0, 0, 1, 1, 5, 40))
        piece = draw.choice((*PIECES, "", text[at : at + 30]))
        text = text[:at] + piece + text[until:]
    return text


def an_override(draw: random.Random) -> str:
    key = draw.choice(KEYS)
    if draw.random() < 0.5:
        return damaged(draw, f"{key.table}.{key.name}=1")
    value = to_toml({"x": {"v": a_value(draw, key)}}).removeprefix("[x]\nv = ").rstrip("\n")
    return f"{key.table}.{key.name}={value}"


def read(path: Path, draw: random.Random) -> Config | None:
    """Of a made-up file and overrides: the config, or one InputError."""
    data = a_document(draw).encode(errors="replace")
    if draw.random() < 0.1:
        at = draw.randrange(len(data) + 1)
        data = data[:at] + draw.randbytes(3) + data[at:]
    path.write_bytes(data)
    overrides = [an_override(draw) for _ in range(draw.choice((0, 0, 1, 2)))]
    try:
        return load_config(path, overrides)
    except InputError as error:
        said = str(error).replace(str(path), "")
    assert 0 < len(said) < 1500
    assert "\n" not in said
    return None


def at_hand(config: Config, known: Setup) -> bool:
    """Whether it looks for nothing in the network, and makes no thousands of examples."""
    sizes = [value for key, value in config.data.options.items() if "examples" in key]
    here = config.data.source == "embedded" and config.model == known.config.model
    return here and all(size is None or size < 1000 for size in sizes)


def play(folder: Path, seed: int, tries: int, previews: int, known: Setup) -> None:
    draw = random.Random(seed)
    path = folder / "c.toml"
    for _ in range(tries):
        config = read(path, draw)
        if config is None:
            continue
        (folder / "back.toml").write_text(config.to_toml())
        assert load_config(folder / "back.toml") == config
        if previews and at_hand(config, known):
            previews -= 1
            with suppress(InputError):
                Session.of(config, known).preview()


def test_no_config_ends_unexpectedly(tmp_path: Path, known: Setup) -> None:
    play(tmp_path, seed=0, tries=1000, previews=30, known=known)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 41))
def test_no_config_ends_unexpectedly_of_many(tmp_path: Path, known: Setup, seed: int) -> None:
    play(tmp_path, seed=seed, tries=1000, previews=300, known=known)


def test_a_part_of_a_path_that_no_file_can_have_is_told_its_limit() -> None:
    make_config(run={"out": f"{'x' * 255}/{'é' * 127}"})
    with pytest.raises(ConfigError, match=r"run\.out: .*é… has more than 255 bytes, .*shorten it"):
        make_config(run={"out": f"a/{'é' * 128}"})
