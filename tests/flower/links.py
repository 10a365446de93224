"""A network in this process: nodes that answer at once, later, wrongly or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flexlora.flower.described import Described
from flexlora.flower.nodes import Came, Lost, Node
from flexlora.flower.packets import Packet, packed, read_header, unpacked

NORTH = Described("north", 4, 9, 1, 1, 9, 0, 1, 7, None, "f" * 64, "a" * 64, "b" * 64, None)
"""What a client of this name may tell of itself."""

# From a packet to an answer: a packet, its bytes, a loss, or nothing yet.
Answer = Callable[[Packet], Packet | Came | Lost | None]


@dataclass
class Clock:
    """Time passes when somebody sleeps."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class FakeLink:
    """Node id → what answers; keys: of those nodes that have one. sent: all packets, in order."""

    answers: dict[int, Answer] = field(default_factory=dict)
    keys: dict[int, bytes] = field(default_factory=dict)
    sent: list[tuple[int, Packet]] = field(default_factory=list)
    bytes_sent: list[int] = field(default_factory=list)
    pulled: int = 0

    def nodes(self) -> list[Node]:
        return [Node(id, self.keys.get(id, b"")) for id in sorted(self.answers)]

    def push(self, node: int, header: bytes, body: bytes, seconds: float) -> str | None:
        if node not in self.answers:
            return None
        self.sent.append((node, unpacked(read_header(header), body)))
        self.bytes_sent.append(len(body))
        return str(len(self.sent) - 1)

    def pull(self, message: str) -> Came | Lost | None:
        node, packet = self.sent[int(message)]
        if node not in self.answers:
            return None
        found = self.answers[node](packet)
        self.pulled += found is not None
        return Came(*packed(found)) if isinstance(found, Packet) else found
