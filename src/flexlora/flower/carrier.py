"""The server's side of a message of any size: pushed in chunks, its answer fetched in chunks."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from flexlora.errors import WireError
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
    chunks,
    index_of,
    whole_header,
)
from flexlora.flower.nodes import Came, Link, Lost, fresh_ask
from flexlora.flower.packets import (
    FAILURE,
    NOBODY,
    Address,
    Header,
    Packet,
    packed,
    read_header,
    require_address,
    require_size,
    unpacked,
)


@dataclass(eq=False)
class Parcel:
    """A message on its way, in one of Flower's or in several, and its answer.

    open: Flower's message → its address and the number of its chunk, of those not answered yet;
    pieces: what has come of an answer in chunks.
    """

    node: int
    asked: Address
    open: dict[str, tuple[Address, int]] = field(default_factory=dict)
    pieces: Pieces | None = None


@final
class Carrier:
    """Takes packets to nodes and brings what they answer.

    folder: for answers as they come in chunks; nothing in it outlives the carrier. A header is
    looked at before the body behind it is asked for: address, and then size.
    """

    def __init__(self, link: Link, folder: Path, size: int = SIZE) -> None:
        """size: of a chunk, in bytes; the other side's is the same."""
        self._link = link
        self._folder = folder
        self._size = size
        self._left: set[str] = set()
        self._clear()

    def close(self) -> None:
        self._clear()

    def push(self, node: int, packet: Packet, seconds: float) -> Parcel | None:
        """Send it, to be answered within so many seconds; None where the network takes none."""
        header, body = packed(packet)
        parcel = Parcel(node, packet.address)
        if len(body) <= self._size:
            message = self._link.push(node, header, body, seconds)
            if message is None:
                return None
            parcel.open[message] = packet.address, 0
            return parcel
        for index, data in enumerate(chunks(body, self._size)):
            one = replace(packet.address, ask=fresh_ask())
            facts = {OF: header.decode(), INDEX: index}
            message = self._link.push(node, *packed(Packet(PUT, one, {PART: data}, facts)), seconds)
            if message is None:
                self._left |= parcel.open.keys()
                return None
            parcel.open[message] = one, index
        return parcel

    def pull(self, parcel: Parcel, limit: int, seconds: float) -> Packet | Lost | None:
        """The answer; None while there is none, or not all of it.

        limit: bytes of its body at most; seconds: in which the rest of it may come. Raises
        WireError for what answers something else, is too large, damaged, or lacks a chunk.
        """
        for message, (asked, index) in list(parcel.open.items()):
            found = self._link.pull(message)
            if found is None:
                continue
            del parcel.open[message]
            if isinstance(found, Came):
                answer = self._taken(parcel, found, asked, index, limit, seconds)
                if answer is None:
                    continue
            else:
                answer = found
            self.forget(parcel)
            return answer
        if not parcel.open:
            raise WireError("all chunks of a message were taken, and none was answered")
        return None

    def dropped(self, parcel: Parcel) -> bool | None:
        """Fetch what still answers a message that nobody waits for, and forget it.

        Whether there was an answer; None while some may still come.
        """
        if parcel.pieces is not None:
            parcel.pieces.clear()
        for message in list(parcel.open):
            found = self._link.pull(message)
            if found is None:
                continue
            del parcel.open[message]
            if isinstance(found, Came) and not _kept(found):
                self.forget(parcel)
                return True
        return None if parcel.open else False

    def forget(self, parcel: Parcel) -> None:
        """Of a parcel that was refused: what is still to come is fetched by `tidy`, and dropped."""
        self._left |= parcel.open.keys()
        parcel.open.clear()
        if parcel.pieces is not None:
            parcel.pieces.clear()

    def tidy(self) -> None:
        """Fetch what nobody needs, so that the network holds it no longer."""
        self._left -= {message for message in self._left if self._link.pull(message) is not None}

    def _taken(
        self, parcel: Parcel, came: Came, asked: Address, index: int, limit: int, seconds: float
    ) -> Packet | Lost | None:
        """What an answer to one of the messages brings: the whole, or something towards it."""
        header = read_header(came.header)
        kind = header.packet.kind
        if kind != FAILURE or header.packet.address != NOBODY:  # That of what could not be read.
            require_address(header, asked)
        if kind == KEPT:
            require_size(header, 0)
            return None
        if kind == HELD and parcel.pieces is None:
            require_size(header, 0)
            return self._fetch(parcel, whole_header(header.packet), asked, limit, seconds)
        if kind == CHUNK and parcel.pieces is not None:
            require_size(header, self._size)
            if index_of(header.packet) != index:
                raise WireError(f"chunk {index_of(header.packet)} came, asked was {index}")
            data = unpacked(header, came.body).parts.get(PART, b"")
            parcel.pieces.add(index, data)
            return parcel.pieces.packet() if parcel.pieces.complete else None
        require_size(header, limit)
        return unpacked(header, came.body)

    def _fetch(
        self, parcel: Parcel, whole: Header, asked: Address, limit: int, seconds: float
    ) -> Lost | None:
        """Ask for all chunks of an answer whose header has come."""
        require_address(whole, asked)
        require_size(whole, limit)
        self.forget(parcel)
        parcel.pieces = Pieces(self._folder / asked.ask, whole, self._size)
        if parcel.pieces.count == 0:
            raise WireError("an answer that is held back has no bytes")
        for index in range(parcel.pieces.count):
            one = replace(asked, ask=fresh_ask())
            facts = {INDEX: index, MESSAGE: asked.ask}
            message = self._link.push(parcel.node, *packed(Packet(FETCH, one, {}, facts)), seconds)
            if message is None:
                return Lost("its node went while its answer was fetched")
            parcel.open[message] = one, index
        return None

    def _clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _kept(came: Came) -> bool:
    try:
        return read_header(came.header).packet.kind == KEPT
    except WireError:
        return False
