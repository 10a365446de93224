"""A message is looked at from its outside in: size, version, what it is about, bytes, parts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flexlora.errors import WireError
from flexlora.flower import packets
from flexlora.flower.packets import (
    HEADER_LIMIT,
    Address,
    Packet,
    package_version,
    packed,
    read_header,
    require_address,
    require_size,
    unpacked,
)

ASKED = Address("a1", 3, "3-0", "north", "77")
PACKET = Packet("train", ASKED, {"payload": b"abc", "delta": b"\x00\xff"}, {"seed": "9"})


def changed(**entries: Any) -> bytes:
    return json.dumps({**json.loads(packed(PACKET)[0]), **entries}).encode()


def test_a_packet_comes_as_it_was_sent() -> None:
    header, body = packed(PACKET)
    read = read_header(header)
    require_address(read, ASKED)
    require_size(read, len(body))
    found = unpacked(read, body)
    assert (found.kind, found.address, found.version) == ("train", ASKED, package_version())
    assert (dict(found.parts), found.facts) == (dict(PACKET.parts), {"seed": "9"})


def test_another_version_is_told_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    header, _ = packed(PACKET)
    ours = package_version()
    monkeypatch.setattr(packets, "package_version", lambda: "9.9.9")
    with pytest.raises(WireError, match=rf"other side has FlexLoRA {ours} .* this one 9\.9\.9 .*"):
        read_header(header)


def test_a_large_header_is_refused_unparsed() -> None:
    with pytest.raises(WireError, match=f"header of {HEADER_LIMIT + 1} bytes, expected at most"):
        read_header(b" " * (HEADER_LIMIT + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 5000,
        b"1" * 5000,
        changed(parts=[["payload", "many"]]),
        changed(parts=[["payload", -1], ["delta", 6]]),
        changed(parts=[["payload"]]),
        changed(round="3"),
        changed(run=None),
        changed(facts=[]),
        changed(version=7),
    ],
    ids=range(13),
)
def test_a_foreign_header_is_told(data: bytes) -> None:
    with pytest.raises(WireError, match="no header of FlexLoRA"):
        read_header(data)


@pytest.mark.parametrize("parts", [[["payload", 4]], [["payload", 3], ["payload", 2]]])
def test_parts_must_make_up_the_body(parts: list[Any]) -> None:
    with pytest.raises(WireError, match="has parts that do not make it up"):
        read_header(changed(parts=parts))


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        ("run", "b2", "of run 'b2', asked was 'a1'"),
        ("round", 2, "of round 2, asked was 3"),
        ("job", "3-1", "of job '3-1', asked was '3-0'"),
        ("client", "south", "of client 'south', asked was 'north'"),
        ("ask", "76", "of message '76', asked was '77'"),
    ],
)
def test_an_answer_to_something_else_is_told(entry: str, value: Any, told: str) -> None:
    with pytest.raises(WireError, match=told):
        require_address(read_header(changed(**{entry: value})), ASKED)


def test_a_size_above_the_limit_is_told() -> None:
    with pytest.raises(WireError, match="is of 5 bytes, expected at most 4"):
        require_size(read_header(packed(PACKET)[0]), 4)


def test_bytes_that_are_not_those_sent_are_told() -> None:
    header, body = packed(PACKET)
    read = read_header(header)
    with pytest.raises(WireError, match="came with 4 bytes, its header says 5"):
        unpacked(read, body[:-1])
    with pytest.raises(WireError, match=r"SHA-256 [0-9a-f]{16}…, its header says [0-9a-f]{16}…"):
        unpacked(read, body[:-1] + b"\x01")
