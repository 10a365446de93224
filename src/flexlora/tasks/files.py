"""Finding and decoding the text files of a source."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from flexlora.errors import DataError, cut_short

PACKED = ".gz"
_CHUNK = 1 << 24  # Bytes that are unpacked at once.
# How files begin that are no text, what they are, and what to do with them.
_UNPACK = "unpack it"
_KINDS = (
    (b"PAR1", ("a parquet file", "set data.source to 'parquet'")),
    (b"ARROW1", ("an Arrow file", "set data.source to 'huggingface' and the path to its folder")),
    (b"PK\x03\x04", ("a zip archive (or a spreadsheet)", "unpack it, or save it as CSV")),
    (b"BZh", ("packed by bzip2", _UNPACK)),
    (b"\xfd7zXZ", ("packed by xz", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", ("packed by zstd", _UNPACK)),
    (b"\x1f\x8b", ("packed twice", _UNPACK)),
)


def place_of(path: str) -> Path:
    """The path, with ~ for a user's home.

    Raises DataError for no path, a user who is not here, and where nothing can even be looked for.
    """
    if not path:
        raise DataError("the path is empty; give a file or a folder")
    try:
        place = Path(path).expanduser()
        place.is_file()
    except RuntimeError as error:
        raise DataError(f"{path} names a home that is not here; write the path out") from error
    except OSError as error:
        raise DataError(f"{cut_short(path)} cannot be read ({_reason(error)}); check it") from error
    return place


def files_at(path: str, suffixes: Sequence[str]) -> list[Path]:
    """The file at this path, or a folder's files with these suffixes, sorted by name.

    A suffix may have .gz behind it, where `read_text` reads the file. Raises DataError for a path
    where nothing is, for a folder without such files, and for one of these names that is none.
    """
    place = place_of(path)
    try:
        if place.is_file():
            return [place]
        if not place.is_dir():
            raise DataError(f"{path} does not exist; set the path to a file or a folder of files")
        names = tuple(suffix + packed for suffix in suffixes for packed in ("", PACKED))
        found = sorted(f for f in place.iterdir() if _ends(f, names))
        for file in found:  # Passed over, its rows would be missing without a word.
            if not file.is_file():
                what = "a folder" if file.is_dir() else "no file (a link to what is not there?)"
                raise DataError(
                    f"{file.name} in {cut_short(path)} is {what}; put a file there, or take it away"
                )
    except (OSError, ValueError) as error:
        raise DataError(f"{cut_short(path)} cannot be read ({_reason(error)}); check it") from error
    if not found:
        raise DataError(
            f"folder {path} holds no {' or '.join(suffixes)} file; set the path to the right folder"
        )
    return found


def plain_name(path: Path) -> Path:
    """The file's name without .gz."""
    return Path(path.name[: -len(PACKED)] if _ends(path, (PACKED,)) else path.name)


def parts_of(files: Iterable[Path]) -> tuple[str, ...]:
    """Each file by its one whole path, for `Rows.parts`."""
    return tuple(str(file.resolve()) for file in files)


def read_text(path: Path, most: int) -> str:
    """A file's UTF-8 text, unpacked where it is gzip, without byte order marks.

    Raises DataError for one that cannot be read, for one of more than `most` bytes (unpacked,
    before they are read), for another kind of file that it knows, and naming line and byte of what
    is not UTF-8.
    """
    return _text(path, _bytes(path, most))


def read_texts(paths: Iterable[Path], most: int) -> Iterator[tuple[Path, str]]:
    """Each file of a table and its text, as `read_text` reads it; `most` holds of all together."""
    before = 0
    for path in paths:
        data = _bytes(path, most, before)
        before += len(data)
        yield path, _text(path, data)


def _text(path: Path, data: bytes) -> str:
    kind, cure = next((words for mark, words in _KINDS if data.startswith(mark)), ("", ""))
    if kind:
        raise DataError(f"{path} is {kind}, no text; {cure}")
    try:
        return data.decode("utf-8-sig").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        # A byte order mark is no part of what the error counts in, nor of a line.
        offset = error.start + (len(data) - len(error.object))
        line = data.count(b"\n", 0, offset) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[offset]:02x} at offset {offset} is not UTF-8; save "
            "the file as UTF-8"
        ) from error


def require_size(where: str | Path, size: int, most: int) -> None:
    """Raise DataError for a table of more bytes than may be read."""
    if size > most:
        raise DataError(
            f"{where} comes to {size / 1e9:,.3g} GB or more as it is read, above data.max_table_gb "
            f"= {most / 1e9:g}; raise it, or give a part of the data"
        )


def _bytes(path: Path, most: int, before: int = 0) -> bytes:
    """before: bytes of the table's other files, which count."""
    and_more = ", with the files before it," if before else ""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not packed:
                require_size(f"{path}{and_more}", before + path.stat().st_size, most)
                return file.read()
            data = bytearray()
            with gzip.GzipFile(fileobj=file) as unpacked:
                while chunk := unpacked.read(_CHUNK):
                    data += chunk
                    require_size(f"{path}, unpacked,{and_more[1:]}", before + len(data), most)
            return bytes(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is packed and broken ({error}); copy the file anew") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({_reason(error)}); check it") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _ends(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffixes)
