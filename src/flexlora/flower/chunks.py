"""Bodies larger than a chunk: their header goes first, then chunk after chunk, spooled to disk.

Loads no model code. Down: each chunk is a message of kind `PUT` that has the whole's header with
it; whoever has them all answers the last one as if the whole had come. Up: an answer of kind `HELD`
is the whole's header alone; the chunks are then asked for by `FETCH` and come as `CHUNK`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from flexlora.errors import WireError, shown
from flexlora.flower.packets import Header, Packet, read_header, unpacked
from flexlora.formats.json_fields import text, whole
from flexlora.formats.refused import refused

PUT, KEPT, HELD, FETCH, CHUNK = "put", "kept", "held", "fetch", "chunk"
SIZE = 16 << 20
"""Bytes of a chunk; what is no larger travels with its header. Each chunk costs a node a process,
and the server the memory of a few of them, whatever the message and however many the clients."""
PART, INDEX, OF, MESSAGE = "chunk", "index", "of", "message"


def chunks(body: bytes, size: int) -> Iterator[bytes]:
    for begin in range(0, len(body), size):
        yield body[begin : begin + size]


def whole_header(packet: Packet) -> Header:
    """Of the message that this one is about. Raises WireError as `read_header` does."""
    try:
        return read_header(text(packet.facts, OF).encode())
    except ValueError as error:
        raise WireError(f"a {shown(packet.kind)} message tells of no other: {error}") from error


def index_of(packet: Packet) -> int:
    """The number of a chunk, counted from 0. Raises WireError for none."""
    try:
        return whole(packet.facts, INDEX)
    except ValueError as error:
        raise WireError(f"a {shown(packet.kind)} message has no chunk's number: {error}") from error


class Pieces:
    """The body of this header, as its chunks come: each is written to `path`, where it belongs.

    They may come in any order, and each once: in memory is one at a time.
    """

    def __init__(self, path: Path, header: Header, size: int) -> None:
        """size: of a chunk, in bytes; the last one may be shorter."""
        self.header = header
        self.count = -(-header.size // size)
        self._path = path
        self._size = size
        self._here: set[int] = set()

    @property
    def complete(self) -> bool:
        return len(self._here) == self.count

    def add(self, index: int, data: bytes) -> None:
        """Raises WireError for a chunk that came before, is none of these, or is of another length;
        FlexLoRAError where the disk refuses."""
        if not 0 <= index < self.count:
            raise WireError(f"chunk {shown(index)} came of a message of {self.count} chunks")
        if index in self._here:
            raise WireError(f"chunk {index} of a message came twice")
        expected = min(self._size, self.header.size - index * self._size)
        if len(data) != expected:
            raise WireError(f"chunk {index} has {len(data)} bytes, expected {expected}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            place = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            with open(place, "r+b") as file:
                file.seek(index * self._size)
                file.write(data)
        except OSError as error:
            raise refused(self._path, error) from error
        self._here.add(index)

    def packet(self) -> Packet:
        """The whole, out of the file, which is then gone. Raises WireError as `unpacked` does."""
        try:
            return unpacked(self.header, self.take())
        finally:
            self.clear()

    def take(self) -> bytes:
        """The body, as it came."""
        assert self.complete
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise refused(self._path, error) from error
        finally:
            self.clear()

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)
