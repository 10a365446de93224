"""Flower's grid as a link: one message out, one answer in."""

from __future__ import annotations

from typing import final

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from flexlora.errors import WireError
from flexlora.flower.content import content_of, packet_of
from flexlora.flower.nodes import Came, Lost, Node

_MESSAGE_GONE = "Flower has no answer of it any more"


@final
class FlowerLink:
    """Messages go and come one by one: what is in memory is one of them."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def nodes(self) -> list[Node]:
        return [Node(node.node_id, bytes(node.public_key)) for node in self._grid.get_nodes()]

    def push(self, node: int, header: bytes, body: bytes, seconds: float) -> str | None:
        content = content_of(header, body)
        kind = MessageType.TRAIN if body else MessageType.QUERY
        sent = Message(content, dst_node_id=node, message_type=kind, ttl=seconds)
        (found,) = list(self._grid.push_messages([sent])) or [None]
        return found or None

    def pull(self, message: str) -> Came | Lost | None:
        found = list(self._grid.pull_messages([message]))
        if not found:
            return None
        answer = found[0]
        if answer.has_error():
            code, reason = answer.error.code, answer.error.reason
            return Lost(f"Flower's error {code}: {reason or _MESSAGE_GONE}")
        try:
            return Came(*packet_of(answer))
        except WireError as error:
            return Lost(str(error))
