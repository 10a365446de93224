"""A config's values as TOML, tables one level deep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tomli_w


def to_toml(document: Mapping[str, Mapping[str, Any]]) -> str:
    """Table → key → value as text; each value on one line."""
    lines: list[str] = []
    for name, table in document.items():
        lines += [f"[{name}]", *(f"{_key(k)} = {_value(v)}" for k, v in table.items()), ""]
    return "\n".join(lines)


def describe(value: object) -> str:
    """A value as a user would write it, cut short, for messages."""
    try:
        text = _value(value)
    except (TypeError, ValueError):
        text = json.dumps(str(value))
    return text if len(text) <= 60 else text[:57] + "…"


def _key(name: str) -> str:
    return tomli_w.dumps({name: 0}).removesuffix(" = 0\n")


def _value(value: Any) -> str:
    """A value on one line; mappings inline, so that tables stay one level deep."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").removesuffix("\n")
