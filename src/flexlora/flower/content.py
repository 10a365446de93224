"""Packets in Flower's messages: the header as bytes, the body as one array of them, in chunks."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from flexlora.errors import WireError

_HEADER, _BODY = "header", "body"


def content_of(header: bytes, body: bytes) -> RecordDict:
    content = RecordDict({_HEADER: ConfigRecord({_HEADER: header})})
    if body:
        content[_BODY] = ArrayRecord({_BODY: Array("uint8", (len(body),), "flexlora", body)})
    return content


def packet_of(message: Message) -> tuple[bytes, bytes]:
    """(header, body). Raises WireError for a message that holds anything else."""
    try:
        header = message.content[_HEADER][_HEADER]
        body = message.content[_BODY][_BODY].data if _BODY in message.content else b""
    except (KeyError, TypeError, AttributeError) as error:
        raise WireError("a message of Flower holds no packet; is the other side one?") from error
    if not (isinstance(header, bytes) and isinstance(body, bytes)):
        raise WireError("a message of Flower holds no packet; is the other side one?")
    return header, body
