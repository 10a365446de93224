"""Finding, decoding and parsing the text files of a source."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flexlora.errors import DataError


def place_of(path: str) -> Path:
    """The path, with ~ for a user's home. Raises DataError for a user who is not here."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path} names a home that is not here; write the path out") from error


def files_at(path: str, suffixes: Sequence[str]) -> list[Path]:
    """The file at this path, or a folder's files with these suffixes, sorted by name.

    Raises DataError for a path where nothing is, and for a folder without such files.
    """
    place = place_of(path)
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"{path} does not exist; set the path to a file or a folder of files")
    found = sorted(f for f in place.iterdir() if f.is_file() and f.suffix.lower() in suffixes)
    if not found:
        raise DataError(
            f"folder {path} holds no {' or '.join(suffixes)} file; set the path to the right folder"
        )
    return found


def parts_of(files: Iterable[Path]) -> tuple[str, ...]:
    """Each file by its one whole path, for `Rows.parts`."""
    return tuple(str(file.resolve()) for file in files)


def read_text(path: Path) -> str:
    """A file's UTF-8 text, without a byte order mark.

    Raises DataError for one that cannot be read, and names line and byte of what is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check it") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # A byte order mark is no part of what the error counts in, nor of a line.
        offset = error.start + (len(data) - len(error.object))
        line = data.count(b"\n", 0, offset) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[offset]:02x} at offset {offset} is not UTF-8; save "
            "the file as UTF-8"
        ) from error


def parsed_json(text: str, where: str | Path, cure: str) -> Any:
    """The value of a JSON text. where: its place, or the file that it is all of.

    Raises DataError naming `where` and the cure for what is no JSON, nested beyond what can be
    read, or has a key twice in one object; and for a whole number of more digits than Python
    reads (4,300).
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if isinstance(where, Path) else ""
        raise DataError(
            f"{where}{line}: broken JSON at column {error.colno} ({error.msg}); {cure}"
        ) from error
    except RecursionError as error:
        raise DataError(f"{where}: nested too deep; {cure}") from error
    except _TwiceError as error:
        raise DataError(f"{where}: key {error.args[0]!r} comes twice; keep one") from error
    except ValueError as error:  # What else Python says against a number.
        raise DataError(
            f"{where} holds a whole number of more digits than can be read; write it as text, in "
            "quotes"
        ) from error


def require_characters(where: str, texts: Iterable[str]) -> None:
    """Raise DataError for half of a surrogate pair, which JSON can spell but no tokenizer reads."""
    for text in texts:
        if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            raise DataError(
                f"{where} holds half of a surrogate pair, which is no character; mend that row"
            )


class _TwiceError(Exception):
    pass


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        raise _TwiceError(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return values
