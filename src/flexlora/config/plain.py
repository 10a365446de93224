"""What any config may hold at all, whoever wrote it: so much of it, and values that can be kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flexlora.errors import ConfigError, shown
from flexlora.formats.atomic import LONGEST_PART
from flexlora.formats.visible import brief

MOST_VALUES = 10_000
MOST_CHARACTERS = 500_000  # Of all texts: what is written of them stays below `toml.LARGEST`.
LONGEST_TEXT = 4096  # As long as a path can be.
LARGEST_NUMBER = 2**63 - 1  # TOML's own.
DEEPEST = 8


def require_plain(document: Mapping[str, Any]) -> None:
    """Hold every value of a config's tables to what can be written, compared and shown.

    Texts are Unicode without NUL, whole numbers have 64 bits, names are texts; what is of another
    type is for the key to refuse. Raises ConfigError that names the key.
    """
    characters = 0
    for values, (name, depth, item) in enumerate(_items(document), start=1):
        if depth > DEEPEST:
            raise ConfigError(f"config {name} is nested too deep; tables go one level deep")
        if values > MOST_VALUES:
            raise ConfigError(
                f"config has more than {MOST_VALUES:,} values, the last of them in {name}; "
                "give fewer"
            )
        if isinstance(item, str):
            _require_text(name, item)
            characters += len(item)
        elif isinstance(item, int) and abs(item) > LARGEST_NUMBER:
            raise ConfigError(
                f"config {name} is {shown(item)}, a whole number of more than 64 bits; lower it"
            )
        if characters > MOST_CHARACTERS:
            raise ConfigError(
                f"config has texts of more than {MOST_CHARACTERS:,} characters, the last of them "
                f"in {name}; shorten them"
            )


def _items(document: Mapping[str, Any]) -> Iterator[tuple[str, int, Any]]:
    """(key, depth, value) of all that it holds, names too, in order; no depth ends it."""
    waiting: list[Iterator[tuple[str, int, Any]]] = [_of_table("", 0, document)]
    while waiting:
        for name, depth, item in waiting[-1]:
            yield name, depth, item
            if isinstance(item, Mapping):
                waiting.append(_of_table(name, depth + 1, item))
                break
            if isinstance(item, list | tuple):
                waiting.append(_of_list(name, depth + 1, item))
                break
        else:
            waiting.pop()


def _of_table(name: str, depth: int, table: Mapping[Any, Any]) -> Iterator[tuple[str, int, Any]]:
    for key, value in table.items():
        if not isinstance(key, str):
            where = f"config {name}" if name else "config"
            raise ConfigError(f"{where} has the key {shown(key)}, which is no text; name it so")
        # Which key of which table, or of which in that; what is deeper is a value of it.
        part = brief(key)
        owner = name if depth > 2 else f"{name}.{part}" if name else part
        yield owner, depth, key
        yield owner, depth, value


def _of_list(name: str, depth: int, items: Sequence[Any]) -> Iterator[tuple[str, int, Any]]:
    for item in items:
        yield name, depth, item


def require_name(path: str, key: str = "") -> str:
    """The path, if there can be a file of this name; key: of the config, for the error.

    Raises ValueError otherwise.
    """
    try:
        Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{key}{shown(path)} begins with no user of this machine; correct it"
        ) from error
    part = max(path.split("/"), key=lambda part: len(part.encode(errors="replace")))
    if len(part.encode(errors="replace")) > LONGEST_PART:
        raise ValueError(
            f"{key}{shown(part)} has more than {LONGEST_PART} bytes, as no file's name has; "
            "shorten it"
        )
    return path


def _require_text(name: str, text: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise ConfigError(
            f"config {name} is a text of {len(text):,} characters; give at most {LONGEST_TEXT:,}"
        )
    if "\0" in text:
        raise ConfigError(f"config {name} is {shown(text)}, which holds NUL; leave it out")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"config {name} is {shown(text)}, which is no Unicode text; write it in UTF-8"
        ) from None
