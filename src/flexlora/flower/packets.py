"""What crosses the network: a header, which is checked first, and then the bytes that it tells of.

Loads no model code: whoever only passes packets on starts fast.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from flexlora.errors import WireError, seen, shown
from flexlora.formats.json_fields import items, table, text, whole

FORMAT = 1
FAILURE = "failure"
"""The kind of packet that says, by its fact "reason", why there is no other."""
HEADER_LIMIT = 1 << 20
"""Bytes of a header: it names the parts of the body, and holds a run's config."""
_FOREIGN = (ValueError, TypeError, KeyError, RecursionError, OverflowError)


@dataclass(frozen=True)
class Address:
    """What a packet is about. run: its run's id; round, job, client: as of the job ("" and 0 where
    nobody is asked for one); ask: names this very message, and its answer gives it back.
    """

    run: str
    round: int
    job: str
    client: str
    ask: str


NOBODY = Address("", 0, "", "", "")
"""Of an answer to what could not be read."""


@dataclass(frozen=True, eq=False)
class Packet:
    """kind: what is asked or answered; parts: name → bytes; facts: plain values, as JSON has them.

    version: of the package that made it.
    """

    kind: str
    address: Address
    parts: Mapping[str, bytes] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    version: str = field(default_factory=lambda: package_version())


@dataclass(frozen=True, eq=False)
class Header:
    """A packet without its bytes: its body's size and SHA-256, and the names and sizes of parts."""

    packet: Packet
    size: int
    sha256: str
    parts: tuple[tuple[str, int], ...]


def package_version() -> str:
    return metadata.version("flexlora")


def packed(packet: Packet) -> tuple[bytes, bytes]:
    """(header, body) as they travel."""
    body = b"".join(packet.parts.values())
    address = packet.address
    header = {
        "format": FORMAT,
        "version": packet.version,
        "kind": packet.kind,
        "run": address.run,
        "round": address.round,
        "job": address.job,
        "client": address.client,
        "ask": address.ask,
        "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "parts": [[name, len(data)] for name, data in packet.parts.items()],
        "facts": dict(packet.facts),
    }
    return json.dumps(header).encode(), body


def read_header(data: bytes) -> Header:
    """What a stranger's header says, its size looked at before anything is parsed.

    Raises WireError for one that is too large, none at all, or of another version of the package:
    that one names both.
    """
    if len(data) > HEADER_LIMIT:
        raise WireError(
            f"a message has a header of {len(data)} bytes, expected at most {HEADER_LIMIT}"
        )
    try:
        found = json.loads(data)
        version, format = text(found, "version"), whole(found, "format")
    except _FOREIGN as error:
        raise _foreign(error) from error
    if (version, format) != (package_version(), FORMAT):
        raise WireError(
            f"the other side has FlexLoRA {seen(version)} (messages of format {shown(format)}), "
            f"this one {package_version()} (format {FORMAT}); install the same on both"
        )
    try:
        address = Address(
            *(text(found, "run"), whole(found, "round"), text(found, "job")),
            *(text(found, "client"), text(found, "ask")),
        )
        kind, facts = text(found, "kind"), table(found, "facts")
        size, digest = whole(found, "size"), text(found, "sha256")
        parts = tuple((text({"parts": n}, "parts"), _size(s)) for n, s in items(found, "parts"))
    except _FOREIGN as error:
        raise _foreign(error) from error
    if sum(size for _, size in parts) != size or len(dict(parts)) != len(parts):
        raise WireError(f"a message of {shown(size)} bytes has parts that do not make it up")
    return Header(Packet(kind, address, {}, facts, version), size, digest, parts)


def require_address(header: Header, asked: Address) -> None:
    """Raise WireError, naming both, unless the message is about just what was asked."""
    given = header.packet.address
    for what, found, wanted in (
        ("run", given.run, asked.run),
        ("round", given.round, asked.round),
        ("job", given.job, asked.job),
        ("client", given.client, asked.client),
        ("message", given.ask, asked.ask),
    ):
        if found != wanted:
            raise WireError(f"the answer is of {what} {shown(found)}, asked was {shown(wanted)}")


def require_size(header: Header, limit_bytes: int) -> None:
    """Raise WireError for more than this, before a byte of it is held."""
    if header.size > limit_bytes:
        raise WireError(f"a message is of {header.size} bytes, expected at most {limit_bytes} here")


def unpacked(header: Header, body: bytes) -> Packet:
    """The packet with its bytes, if they are those that the header tells of.

    Raises WireError, naming both, for another size or digest.
    """
    if len(body) != header.size:
        raise WireError(f"a message came with {len(body)} bytes, its header says {header.size}")
    digest = hashlib.sha256(body).hexdigest()
    if digest != header.sha256:
        raise WireError(
            f"a message is damaged: its bytes have SHA-256 {digest[:16]}…, its header says "
            f"{seen(header.sha256[:16])}…"
        )
    parts, begin = {}, 0
    for name, size in header.parts:
        parts[name] = body[begin : begin + size]
        begin += size
    known = header.packet
    return Packet(known.kind, known.address, parts, known.facts, known.version)


def _size(value: object) -> int:
    size = whole({"parts": value}, "parts")
    if size < 0:
        raise ValueError(size)
    return size


def _foreign(error: BaseException) -> WireError:
    reason = " ".join(str(error).split())[:100]
    return WireError(f"a message has no header of FlexLoRA ({reason}); is the other side one?")
