"""What a GGUF file says before its tensors, read strictly: every size is held to the file's own.

Of arrays, which are a tokenizer's, only the lengths are kept: 8 bytes name any size, and a reader
that believes them ends with the machine's memory. Versions 2 and 3, little-endian, as specified in
ggml's docs/gguf.md.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from flexlora.errors import shown

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST = 1 << 28  # Bytes before the tensors: a vocabulary of 256,000 words takes 20 MB.
_MOST_ENTRIES = 1 << 17  # Of values, and of tensors.
_MOST_IN_ARRAYS = 1 << 23  # Of all of them; readers after this one make an object of each.
_LONGEST_NAME = 1 << 16
_LONGEST_TEXT = 1 << 24
_MOST_DIMENSIONS = 8
_LARGEST = 1 << 48  # Numbers of one tensor.
_ALIGNMENT = "general.alignment"
_TEXT, _ARRAY = 8, 9
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))

Value = int | float | bool | str


@dataclass(frozen=True)
class GgufTensor:
    """shape: the last dimension is the one that lies together, as in torch. type: ggml's number.
    begin: its first byte in the file.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    begin: int

    @property
    def numbers(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """values: by key, numbers and texts; lengths: by key, of arrays; size: bytes of the file."""

    values: Mapping[str, Value]
    lengths: Mapping[str, int]
    tensors: tuple[GgufTensor, ...]
    size: int

    def text(self, key: str) -> str:
        """ "" where it is not there, or no text."""
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def whole(self, key: str) -> int:
        """0 where it is not there, or no whole number."""
        value = self.values.get(key)
        return value if isinstance(value, int) else 0


def read_gguf_header(path: Path) -> GgufHeader:
    """Raises OSError for a file that cannot be read, and ValueError that says what is wrong: no
    plain file, no GGUF, one of another version, or a size in it that no such file can have.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("is no plain file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return _Reader(file, size).header()


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0
        self._in_arrays = 0

    def header(self) -> GgufHeader:
        if self._take(min(4, self._size)) != _MAGIC:
            raise ValueError("is no GGUF file")
        (version,) = self._unpack("I")
        if version not in _VERSIONS:
            turned = int.from_bytes(version.to_bytes(4, "little"), "big")
            of = "big-endian machines" if turned in _VERSIONS else f"version {version}"
            raise ValueError(
                f"is a GGUF file of {of}, and versions 2 and 3, little-endian, are read"
            )
        tensors = self._count("tensors")
        entries = self._count("values")
        values: dict[str, Value] = {}
        lengths: dict[str, int] = {}
        for _ in range(entries):
            key = self._text(_LONGEST_NAME)
            if key in values or key in lengths:
                raise ValueError(f"has the value {shown(key)} twice")
            (kind,) = self._unpack("I")
            if kind == _ARRAY:
                lengths[key] = self._array(key)
            else:
                values[key] = self._value(key, kind)
        found = [self._tensor() for _ in range(tensors)]
        alignment = values.get(_ALIGNMENT, 32)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & alignment - 1:
            raise ValueError(f"has {_ALIGNMENT} {shown(alignment)}, no power of two up to 2^20")
        begin = -(-self._at // alignment) * alignment
        placed = [GgufTensor(name, shape, kind, begin + at) for name, shape, kind, at in found]
        if len({tensor.name for tensor in placed}) < len(placed):
            raise ValueError("has two tensors of one name")
        return GgufHeader(values, lengths, tuple(placed), self._size)

    def _count(self, things: str) -> int:
        (count,) = self._unpack("Q")
        if count > _MOST_ENTRIES:
            raise ValueError(
                f"claims {count:,} {things}, more than the {_MOST_ENTRIES:,} it may have"
            )
        return int(count)

    def _value(self, key: str, kind: int) -> Value:
        if kind == _TEXT:
            return self._text(_LONGEST_TEXT)
        value: Value = self._unpack(self._scalar(key, kind))[0]
        return value

    def _scalar(self, key: str, kind: int) -> str:
        if kind not in _SCALARS:
            raise ValueError(f"has the value {shown(key)} of the unknown type {kind}")
        return _SCALARS[kind]

    def _array(self, key: str) -> int:
        kind, count = self._unpack("IQ")
        least = 8 if kind == _TEXT else struct.calcsize(f"<{self._scalar(key, kind)}")
        self._require(count * least, f"{count:,} entries of {shown(key)}")
        self._in_arrays += count
        if self._in_arrays > _MOST_IN_ARRAYS:
            raise ValueError(
                f"has more than {_MOST_IN_ARRAYS:,} entries in arrays, at {shown(key)}"
            )
        if kind != _TEXT:
            self._skip(count * least)
            return int(count)
        for _ in range(count):
            self._skip(self._unpack("Q")[0])
        return int(count)

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text(_LONGEST_NAME)
        (dimensions,) = self._unpack("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"claims {dimensions:,} dimensions of tensor {shown(name)}")
        shape = tuple(reversed(self._unpack(f"{dimensions}Q")))
        if not 0 < prod(shape) <= _LARGEST:
            raise ValueError(f"claims the shape {shown(shape)} of tensor {shown(name)}")
        kind, begin = self._unpack("IQ")
        return name, shape, kind, begin

    def _text(self, most: int) -> str:
        (length,) = self._unpack("Q")
        if length > most:
            raise ValueError(
                f"claims a text of {length:,} bytes, more than the {most:,} it may have"
            )
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as error:
            raise ValueError("has a text that is not UTF-8") from error

    def _unpack(self, form: str) -> tuple[int, ...]:
        form = f"<{form}"
        return struct.unpack(form, self._take(struct.calcsize(form)))

    def _take(self, count: int) -> bytes:
        self._require(count, "what comes next")
        self._at += count
        data = self._file.read(count)
        if len(data) < count:
            raise ValueError("is truncated: it became shorter while it was read")
        return data

    def _skip(self, count: int) -> None:
        self._require(count, "what comes next")
        self._at += count
        self._file.seek(self._at)

    def _require(self, count: int, what: str) -> None:
        if self._at + count > self._size:
            raise ValueError(f"is truncated: it ends at byte {self._size:,}, within {what}")
        if self._at + count > _MOST:
            raise ValueError(f"has more than {_MOST >> 20} MB before its tensors")
