"""A config file may be anything that a path can name: it is read within limits, or refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flexlora.config.config import Config
from flexlora.config.config_file import load_config
from flexlora.config.toml import LARGEST, parse_toml
from flexlora.errors import ConfigError

DOTS = "a." * 200_000 + "a = 1"  # The parser would take gigabytes.
TEXTS = {
    "a number of 5,000 digits": ("[federation]\nseed = " + "9" * 5000, "thousands of digits"),
    "one in base 16": ("[federation]\nseed = 0x" + "f" * 5000, "federation.seed is"),
    "nested lists": ("[model]\ntargets = " + "[" * 10**5, "nested too deep"),
    "nested tables": ("[model]\nname = " + "{a=" * 10**5, "nested too deep"),
    "lists that Python reads": (f"[model]\ntargets = {'[' * 20}{']' * 20}", "model.targets"),
    "a key of many parts": (DOTS, "more than 64 parts"),
    "a table of many parts": ("[" + "a." * 2000 + "b]", "more than 64 parts"),
    "quoted parts": ('"#".' * 2000 + "b = 1", "more than 64 parts"),
    "many parts in an inline table": ("[model]\nname = {" + DOTS + "}", "more than 64 parts"),
    "many parts behind texts": (f"a = '''\n'''\nb = \"\\\"\"\n# '\n{DOTS}", "more than 64 parts"),
    "a text that is not closed": ('a = """' + '\\"""' * 10**5, "is not TOML"),
    "a key twice": ("[federation]\nrounds = 1\nrounds = 2", "is not TOML: Cannot overwrite"),
    "a table twice": ("[model]\n[model]", "is not TOML: Cannot declare"),
    "NUL": ("[model]\nname = 'a\0b'", "is not TOML"),
    "NUL in an escape": ('[model]\nname = "a\\u0000b"', "model.name is 'a\\x00b', which holds NUL"),
    "a lone surrogate": ('[model]\nname = "\\ud800"', "is not TOML"),
    "a date": ("[federation]\nrounds = 2020-01-01", "federation.rounds is 2020-01-01"),
    "a wrong date": ("[federation]\nrounds = 2020-99-01", "is not TOML"),
    "a large file": ("# " + "x" * LARGEST, "more than 4 MB"),
    "a long key": ("[model]\n" + "k" * 10**6 + " = 1", "config model.kkk"),
    "a key of lines": ('[model]\n"a\\nb" = 1', "config key model.a\\nb is unknown"),
    "a table of lines": ('["a\\nb"]', "config table [a\\nb] is unknown"),
}


@pytest.mark.parametrize(("text", "words"), TEXTS.values(), ids=TEXTS)
def test_texts(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.toml").write_bytes(text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.toml")
    said = str(caught.value).replace(str(tmp_path), "")
    assert words in said
    assert "\n" not in said
    assert len(said) < 500


OVERRIDES = {
    "a number of 5,000 digits": "federation.seed=" + "9" * 5000,
    "nested lists": "model.targets=" + "[" * 10**5,
    "a key of many parts": "model.targets={" + DOTS + "}",
    "a surrogate of the command line": "model.name=\udcff",
    "NUL": "model.name=a\0b",
    "a long name": "model." + "x" * 10**6 + "=1",
    "a long table": "x" * 10**6 + ".x=1",
    "nothing": "x" * 10**6,
    "lines": "a\nb",
    "a long value": "model.name=" + "x" * 10**6,
    "a list of lines": "model.name=[\n",
}


@pytest.mark.parametrize("item", OVERRIDES.values(), ids=OVERRIDES)
def test_overrides(tmp_path: Path, item: str) -> None:
    (tmp_path / "c.toml").write_text("")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.toml", [item])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "endless"):
        with pytest.raises(ConfigError, match="is no plain file; give a TOML file"):
            load_config(path)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("circle", "x" * 300):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(tmp_path / name)
    with pytest.raises(ConfigError, match="NUL in its path"):
        load_config("a\0b")


def test_a_byte_order_mark_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbf[federation]\nrounds = 3\n")
    assert load_config(tmp_path / "c.toml").federation.rounds == 3


def test_dots_in_texts_are_no_parts_of_keys() -> None:
    dots = "a." * 200
    for text in (f"x = '{dots}'", f'x = "\\"{dots}"', f"x = 1 # {dots}", f'x = """\n"{dots}\n"""'):
        assert set(parse_toml(text)) == {"x"}
    numbers = {"x": [0.5] * 200}
    assert parse_toml("x = [" + "0.5, " * 200 + "]") == numbers


def test_the_largest_config_that_can_be_made_can_be_read(tmp_path: Path) -> None:
    targets = tuple("\x01" * 4000 for _ in range(124))
    config = Config().model_copy(
        update={"model": Config().model.model_copy(update={"targets": targets})}
    )
    (tmp_path / "c.toml").write_text(config.to_toml())
    assert load_config(tmp_path / "c.toml") == config
