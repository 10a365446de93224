"""Finding and decoding the text files of a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flexlora.errors import DataError


def files_at(path: str, suffixes: Sequence[str]) -> list[Path]:
    """The file at this path, or a folder's files with these suffixes, sorted by name.

    Raises DataError for a path where nothing is, and for a folder without such files.
    """
    place = Path(path).expanduser()
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
