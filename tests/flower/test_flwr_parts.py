"""What touches Flower's own types: packets in its messages, the ClientApp, the link."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("flwr") is None:
    pytest.skip("flwr is not installed: pip install 'flexlora[flower]'", allow_module_level=True)

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

from flexlora.errors import WireError
from flexlora.flower.client_app import answer
from flexlora.flower.content import content_of, packet_of
from flexlora.flower.link import FlowerLink
from flexlora.flower.local import listening, private_folder, serve
from flexlora.flower.nodes import Came, Lost
from flexlora.flower.packets import FAILURE, Address, Packet, packed, read_header

ASKED = Packet("train", Address("a1", 1, "1-0", "north", "7"), {"payload": b"\x00adapter"})


@pytest.fixture(autouse=True)
def a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that Flower has begun for a message."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def message(content: RecordDict) -> Message:
    sent = Message(content, dst_node_id=5, message_type="train")
    sent.metadata.__dict__["_message_id"] = "an id"
    return sent


def context(**node: Any) -> Context:
    return Context(run_id=1, node_id=5, node_config=node, state=RecordDict(), run_config={})


def test_a_packet_goes_through_a_message_as_it_is() -> None:
    for body in (b"", os.urandom(6 << 20)):
        assert packet_of(message(content_of(b"header", body))) == (b"header", body)


@pytest.mark.parametrize(
    "content", [RecordDict(), RecordDict({"header": ConfigRecord({"header": "text"})})]
)
def test_a_message_of_something_else_is_told(content: RecordDict) -> None:
    with pytest.raises(WireError, match="holds no packet"):
        packet_of(message(content))


def test_the_client_app_hands_it_to_the_trainer_and_the_answer_back(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "c")
    with listening(folder) as listener:
        threading.Thread(
            target=_serve, args=(listener, lambda h, b: (h, b()[::-1])), daemon=True
        ).start()
        header, body = packed(ASKED)
        found = answer(message(content_of(header, body)), context(trainer=str(folder)))
        assert packet_of(found) == (header, body[::-1])
        listener.shutdown(2)


def _serve(listener: Any, by: Any) -> None:
    try:
        serve(listener, by)
    except OSError:
        return


@pytest.mark.parametrize(
    ("node", "told"),
    [({}, "was not told where its trainer is"), ({"trainer": "{tmp}/c"}, "no trainer answers at")],
)
def test_without_a_trainer_the_answer_is_a_failure_of_this_very_job(
    node: dict[str, str], told: str, tmp_path: Path
) -> None:
    private_folder(tmp_path / "c")
    given = {key: value.replace("{tmp}", str(tmp_path)) for key, value in node.items()}
    found = answer(message(content_of(*packed(ASKED))), context(**given))
    packet = read_header(packet_of(found)[0]).packet
    assert (packet.kind, packet.address) == (FAILURE, ASKED.address)
    assert told in packet.facts["reason"]


class FakeGrid:
    """Flower's grid, of which the link uses three methods."""

    def __init__(self, *replies: Message) -> None:
        self.replies = list(replies)
        self.pushed: list[Message] = []

    def push_messages(self, messages: Sequence[Message]) -> list[str | None]:
        self.pushed += messages
        return ["id" if x.metadata.dst_node_id == 5 else None for x in messages]

    def pull_messages(self, _: Sequence[str]) -> list[Message]:
        return [self.replies.pop(0)] if self.replies else []


def test_the_link_pushes_and_pulls_one_message_at_a_time() -> None:
    sent = message(content_of(b"h", b"b"))
    lost = Message(Error(code=5, reason="gone"), reply_to=sent)
    grid: Any = FakeGrid(sent, lost, message(RecordDict()))
    link = FlowerLink(grid)
    assert link.push(5, b"h", b"b", 9.0) == "id"
    assert link.push(6, b"h", b"b", 9.0) is None
    assert [x.metadata.ttl for x in grid.pushed] == [9.0, 9.0]
    assert link.pull("id") == Came(b"h", b"b")
    assert link.pull("id") == Lost("Flower's error 5: gone")
    assert "holds no packet" in str(link.pull("id"))
    assert link.pull("id") is None
