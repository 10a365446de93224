"""A config's values as TOML, tables one level deep, and TOML that others wrote."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from flexlora.errors import cut_short, shown
from flexlora.formats.plain_file import read_plain

LARGEST = 4 << 20  # Bytes of a file.
_MOST_PARTS = 64  # Of a dotted key.

# Texts and comments, whose dots and brackets are none; one that is not closed goes to the end.
_TEXTS = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)'
    r"|'''.*?(?:'''|\Z)"
    r'|"(?:\\.|[^"\\\n])*"?'
    r"|'[^'\n]*'?|#[^\n]*",
    re.DOTALL,
)
_BETWEEN_KEYS = re.compile(r"[=,{}\[\]\n]")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file that somebody else may have written.

    Raises OSError for a file that is not there or cannot be read, and ValueError that says what is
    wrong: no plain file, more than `LARGEST` bytes (before any is parsed), no UTF-8 text, and as
    `parse_toml`.
    """
    try:
        data = read_plain(path, LARGEST)
    except ValueError as error:
        raise ValueError(f"{error}; give a TOML file of {LARGEST >> 20} MB at most") from error
    try:
        text = data.decode("utf-8-sig")  # Some editors begin a file with a mark.
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text; give a TOML file") from error
    return parse_toml(text)


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a text. Raises ValueError that says what is wrong.

    The parser's memory grows with the square of a dotted key's parts: they are counted before.
    """
    outside = _BETWEEN_KEYS.split(_TEXTS.sub("", text))
    if max(part.count(".") for part in outside) >= _MOST_PARTS:
        raise ValueError(f"is not TOML: a key has more than {_MOST_PARTS} parts; shorten it")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not TOML: {error}; correct that line") from error
    except RecursionError as error:
        raise ValueError("is not TOML: it is nested too deep; tables go one level deep") from error
    except ValueError as error:  # Python reads no number of more than some thousand digits.
        raise ValueError("is not TOML: a number has thousands of digits; shorten it") from error


def to_toml(document: Mapping[str, Mapping[str, Any]]) -> str:
    """Table → key → value as text; each value on one line."""
    lines: list[str] = []
    for name, table in document.items():
        lines += [f"[{_key(name)}]", *(f"{_key(k)} = {_value(v)}" for k, v in table.items()), ""]
    return "\n".join(lines)


def describe(value: object) -> str:
    """A value as a user would write it, cut short, for messages."""
    try:
        text = _value(value)
    except (TypeError, ValueError, RecursionError):
        try:
            text = json.dumps(str(value))
        except (ValueError, RecursionError):
            text = shown(value)
    return cut_short(text)


def _key(name: str) -> str:
    return tomli_w.dumps({name: 0}).removesuffix(" = 0\n")


def _value(value: Any) -> str:
    """A value on one line; mappings inline, so that tables stay one level deep."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").removesuffix("\n")
