"""The head of a GGUF file: what it says, and sizes in it that no file can have."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexlora.formats.gguf_header import GgufTensor, read_gguf_header


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(key: str, kind: int, data: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + data


def tensor(name: str, shape: tuple[int, ...], kind: int, begin: int) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return text(name) + dimensions + struct.pack("<IQ", kind, begin)


def head(tensors: int = 0, values: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values)


WHOLE = (
    head(2, 5)
    + value("general.architecture", 8, text("llama"))
    + value("general.alignment", 4, struct.pack("<I", 64))
    + value("x.scale", 6, struct.pack("<f", 0.5))
    + value("words", 9, struct.pack("<IQ", 8, 2) + text("a") + text("bc"))
    + value("kinds", 9, struct.pack("<IQ", 5, 3) + bytes(12))
    + tensor("w", (3, 4), 0, 0)
    + tensor("v", (8,), 1, 64)
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.gguf"


@pytest.mark.parametrize("version", [2, 3])
def test_what_it_says(version: int, path: Path) -> None:
    data = bytearray(WHOLE)
    data[4] = version
    path.write_bytes(data)
    header = read_gguf_header(path)
    assert header.text("general.architecture") == "llama"
    assert header.whole("general.alignment") == 64
    assert header.values["x.scale"] == 0.5
    assert header.text("x.scale") == header.text("gone") == ""
    assert header.whole("gone") == 0
    assert header.lengths == {"words": 2, "kinds": 3}
    begin = -(-len(WHOLE) // 64) * 64
    assert header.tensors == (
        GgufTensor("w", (3, 4), 0, begin),
        GgufTensor("v", (8,), 1, begin + 64),
    )
    assert [x.numbers for x in header.tensors] == [12, 8]
    assert header.size == len(WHOLE)


HUGE = struct.pack("<Q", 1 << 60)
FALSE = {
    "is no GGUF file": b"PK\3\4" + bytes(40),
    "is a GGUF file of version 1": head(version=1),
    "is a GGUF file of big-endian machines": head(version=3 << 24),
    "claims 1,152,921,504,606,846,976 tensors": head(1 << 60),
    "claims 1,152,921,504,606,846,976 values": head(0, 1 << 60),
    "claims a text of 1,152,921,504,606,846,976 bytes": head(0, 1) + HUGE,
    "entries of 'k'": head(0, 1) + value("k", 9, struct.pack("<I", 5) + HUGE),
    "within 2,000 entries of 'k'": head(0, 1) + value("k", 9, struct.pack("<IQ", 8, 2000)),
    "has more than 8,388,608 entries in arrays, at 'k'": head(0, 1)
    + value("k", 9, struct.pack("<IQ", 0, 9_000_000) + bytes(9_000_000)),
    "of the unknown type 99": head(0, 1) + value("k", 99, bytes(8)),
    "'k' of the unknown type 9": head(0, 1) + value("k", 9, struct.pack("<IQ", 9, 1) + bytes(64)),
    "has the value 'k' twice": head(0, 2) + 2 * value("k", 4, bytes(4)),
    "has a text that is not UTF-8": head(0, 1) + struct.pack("<Q", 1) + b"\xff" + bytes(9),
    "no power of two": head(0, 1) + value("general.alignment", 4, struct.pack("<I", 48)),
    "has general.alignment 'x'": head(0, 1) + value("general.alignment", 8, text("x")),
    "dimensions of tensor 'w'": head(1) + text("w") + struct.pack("<I", 1 << 31),
    "claims the shape": head(1) + tensor("w", (1 << 40, 1 << 40), 0, 0),
    "claims the shape (0,)": head(1) + tensor("w", (0,), 0, 0),
    "two tensors of one name": head(2) + 2 * tensor("w", (1,), 0, 0),
    "is truncated": WHOLE[:-1],
}


@pytest.mark.parametrize("told", FALSE)
def test_what_cannot_be(told: str, path: Path) -> None:
    path.write_bytes(FALSE[told])
    with pytest.raises(ValueError) as error:
        read_gguf_header(path)
    assert told in str(error.value)


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, bytes_there: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.gguf"
    path.write_bytes(WHOLE[:at] + bytes_there + WHOLE[at + len(bytes_there) :])
    with suppress(ValueError):
        read_gguf_header(path)


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no plain file"):
        read_gguf_header(Path("/dev/zero"))
    with pytest.raises(FileNotFoundError):
        read_gguf_header(tmp_path / "gone")
