"""JSON out of other people's files: every fault is a DataError that says where."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flexlora.errors import DataError, shown


def parsed_json(text: str, where: str | Path, cure: str) -> Any:
    """The value of a JSON text. where: its place, or the file that it is all of.

    Raises DataError naming `where` and the cure for what is no JSON, nested beyond what can be
    read, or has a key twice in one object; and for a whole number of more digits than Python
    reads (4,300).
    """
    with _said(where, cure):
        return json.loads(text, object_pairs_hook=_object)


def array_items(text: str, path: Path, cure: str) -> Iterator[Any]:
    """The items of a JSON text that is one array, one after the other.

    Raises DataError as `parsed_json`, naming the item where there is no better place.
    """
    place, number = _blank(text, text.index("[") + 1), 0
    while text[place : place + 1] != "]" or number:
        number += 1
        with _said(path, cure, f", item {number}"):
            value, place = _DECODER.raw_decode(text, place)
            place = _blank(text, place)
            yield value
            if text[place : place + 1] == "]":
                break
            if text[place : place + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
            place = _blank(text, place + 1)
    with _said(path, cure):
        end = _blank(text, place + 1)
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)


@contextmanager
def _said(where: str | Path, cure: str, item: str = "") -> Iterator[None]:
    try:
        yield
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if isinstance(where, Path) else ""
        raise DataError(
            f"{where}{line}: broken JSON at column {error.colno} ({error.msg}); {cure}"
        ) from error
    except RecursionError as error:
        raise DataError(f"{where}{item}: nested too deep; {cure}") from error
    except _TwiceError as error:
        raise DataError(
            f"{where}{item}: key {shown(error.args[0])} comes twice; keep one"
        ) from error
    except ValueError as error:  # What else Python says against a number.
        raise DataError(
            f"{where}{item} holds a whole number of more digits than can be read; write it as "
            "text, in quotes"
        ) from error


def require_characters(where: str, texts: Iterable[str]) -> None:
    """Raise DataError for half of a surrogate pair, which JSON can spell but no tokenizer reads."""
    for text in texts:
        if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            raise DataError(
                f"{where} holds half of a surrogate pair, which is no character; mend that row"
            )


def _blank(text: str, place: int) -> int:
    """The first place from this one on that is not blank."""
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


class _TwiceError(Exception):
    pass


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        raise _TwiceError(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
