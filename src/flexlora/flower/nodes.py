"""What the server asks of the network, whatever brings it: nodes, messages out, messages in."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Node:
    """A node that is connected. key: its public key; empty where nodes need none."""

    id: int
    key: bytes = b""


@dataclass(frozen=True)
class Came:
    """An answer as it came: header and body of a packet."""

    header: bytes
    body: bytes


@dataclass(frozen=True)
class Lost:
    """There is no answer, and there will be none."""

    reason: str


class Link(Protocol):
    """One server's way to its nodes."""

    def nodes(self) -> list[Node]:
        """Those that are connected now."""
        ...

    def push(self, node: int, header: bytes, body: bytes, seconds: float) -> str | None:
        """Send a message that may be answered for so long; its id, or None if it was refused."""
        ...

    def pull(self, message: str) -> Came | Lost | None:
        """The answer to a message, which is then gone; None while there is none."""
        ...


def fresh_ask() -> str:
    """A name for one message that nobody can guess, nor an older answer have."""
    return secrets.token_hex(8)
