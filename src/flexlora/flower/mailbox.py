"""The client's side of a message of any size: taken in chunk by chunk, answered chunk by chunk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from flexlora.errors import WireError, shown
from flexlora.flower.chunks import (
    CHUNK,
    FETCH,
    HELD,
    INDEX,
    KEPT,
    MESSAGE,
    OF,
    PART,
    PUT,
    SIZE,
    Pieces,
    index_of,
    whole_header,
)
from flexlora.flower.packets import Address, Header, Packet, packed, require_size, unpacked
from flexlora.formats.atomic import atomic_file
from flexlora.formats.json_fields import text

Body = Callable[[], bytes]


@dataclass(frozen=True)
class _Held:
    """An answer on disk that the server fetches."""

    address: Address
    size: int


@final
class Mailbox:
    """Hands whole messages to whoever does what they ask, and gives answers as they can travel.

    folder: for what is in between: one message that comes, and one answer that goes, until the next
    one takes its place.
    """

    def __init__(self, folder: Path, size: int = SIZE) -> None:
        """size: of a chunk, in bytes."""
        self._folder = folder
        self._size = size
        self._pieces: Pieces | None = None
        self._held: _Held | None = None
        shutil.rmtree(folder, ignore_errors=True)

    def answer(
        self,
        header: Header,
        body: Body,
        require: Callable[[Header], None],
        do: Callable[[Header, Body], Packet],
    ) -> Packet:
        """What to answer to this message.

        require: raises WireError, by its header alone, for a message that is not taken; do: what a
        whole message asks for. Raises WireError for chunks that are none of their message.
        """
        packet = header.packet
        if packet.kind == FETCH:
            return self._chunk(packet)
        if packet.kind != PUT:
            return self._given(do(header, body), packet.address)
        whole = whole_header(packet)
        _require_same(whole.packet.address, packet.address)
        require(whole)
        require_size(header, self._size)
        if self._pieces is None or self._pieces.header.packet.address != whole.packet.address:
            self._begin(whole)
        assert self._pieces is not None
        if self._pieces.header.sha256 != whole.sha256:
            raise WireError("a chunk's message is another one than that of the chunks before it")
        self._pieces.add(index_of(packet), unpacked(header, body()).parts.get(PART, b""))
        if not self._pieces.complete:
            return Packet(KEPT, packet.address)
        data = self._pieces.take()
        self._pieces = None
        return self._given(do(whole, lambda: data), packet.address)

    def _begin(self, whole: Header) -> None:
        if self._pieces is not None:
            self._pieces.clear()
        self._pieces = Pieces(self._folder / "message", whole, self._size)

    def _given(self, answer: Packet, asked: Address) -> Packet:
        """The answer itself, or that it is held."""
        answer = Packet(answer.kind, asked, answer.parts, answer.facts, answer.version)
        header, body = packed(answer)
        if len(body) <= self._size:
            return answer
        with atomic_file(self._folder / "answer", synced=False) as aside:
            aside.write_bytes(body)
        self._held = _Held(asked, len(body))
        return Packet(HELD, asked, {}, {OF: header.decode()})

    def _chunk(self, packet: Packet) -> Packet:
        held, index = self._held, index_of(packet)
        try:
            message = text(packet.facts, MESSAGE)
        except ValueError as error:
            raise WireError(f"a message fetches nothing: {error}") from error
        if held is None or held.address.ask != message:
            raise WireError("the answer that is fetched is not held any more; ask anew")
        _require_same(held.address, packet.address)
        if not 0 <= index * self._size < held.size:
            raise WireError(f"chunk {shown(index)} is fetched of an answer of {held.size} bytes")
        with open(self._folder / "answer", "rb") as file:
            file.seek(index * self._size)
            data = file.read(self._size)
        return Packet(CHUNK, packet.address, {PART: data}, {INDEX: index})


def _require_same(whole: Address, part: Address) -> None:
    """Raise WireError unless a chunk is of the run, round, job and client of its message."""
    for what in ("run", "round", "job", "client"):
        mine, other = getattr(part, what), getattr(whole, what)
        if mine != other:
            raise WireError(f"a chunk is of {what} {shown(mine)}, its message of {shown(other)}")
