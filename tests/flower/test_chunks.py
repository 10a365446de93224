"""A message of any size: its header first, then its chunks, each once and each its own."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexlora.engines.jobs import Reply
from flexlora.errors import WireError
from flexlora.flower.chunks import CHUNK, FETCH, HELD, INDEX, KEPT, OF, PART, PUT, Pieces
from flexlora.flower.described import DESCRIBE
from flexlora.flower.mailbox import Mailbox
from flexlora.flower.outcomes import outcome_packet
from flexlora.flower.packets import (
    FAILURE,
    Header,
    Packet,
    packed,
    read_header,
    require_size,
    unpacked,
)
from flower.links import Answer
from flower.test_grid import JOBS, Net, reason
from flower.test_wire import ASKED

SIZE = 1000
BODY = bytes(range(256)) * 10  # Three chunks, the last one shorter.
LARGE = [replace(job, payload=BODY) for job in JOBS]


def client(mailbox: Mailbox, larger: bytes = b"") -> Answer:
    """One whose messages go through a mailbox, and that sends back what it was sent, and more."""

    def do(header: Header, body: Callable[[], bytes]) -> Packet:
        packet = unpacked(header, body())
        asked, payload = packet.address, packet.parts["payload"] + larger
        reply = Reply(asked.job, asked.client, payload, 4, 0.5, 1, 20, 0.1)
        return outcome_packet(reply, asked)

    def require(header: Header) -> None:
        require_size(header, 100_000)

    def answer(packet: Packet) -> Packet:
        header, body = packed(packet)
        return mailbox.answer(read_header(header), lambda: body, require, do)

    return answer


def told(answer: Answer) -> Answer:
    """What it refuses is a failure that it answers with, as a trainer's is."""

    def found(packet: Packet) -> Any:
        try:
            return answer(packet)
        except WireError as error:
            return Packet(FAILURE, packet.address, {}, {"reason": str(error)})

    return found


def net(folder: Path, **changed: Callable[[Answer], Answer]) -> Net:
    """Of clients whose answers are changed so."""
    answers: dict[str, Any] = {}
    for name in ("east", "north", "south"):
        honest = told(client(Mailbox(folder / name, SIZE)))
        answers[name] = changed[name](honest) if name in changed else honest
    return Net(folder / "server", SIZE, **answers)


def test_a_large_message_and_its_answer_come_as_they_were(tmp_path: Path) -> None:
    made = net(tmp_path)
    for found in made.exchange(list(LARGE)).values():
        (reply,) = found
        assert isinstance(reply, Reply), reply
        assert reply.payload == BODY
    kinds = [packet.kind for packet in made.sent("north")]
    assert kinds == [PUT] * 3 + [FETCH] * 3
    assert max(made.link.bytes_sent) <= SIZE
    assert list((tmp_path / "server").iterdir()) == []


def test_a_small_message_is_one(tmp_path: Path) -> None:
    made = net(tmp_path)
    made.exchange()
    assert [packet.kind for packet in made.sent("north")] == ["train"]


def test_an_answer_that_tells_of_ten_gigabytes_is_refused_before_any_of_it_travels(
    tmp_path: Path,
) -> None:
    def boasts(honest: Answer) -> Answer:
        def found(packet: Packet) -> Any:
            answer = honest(packet)
            assert isinstance(answer, Packet)
            if answer.kind != HELD:
                return answer
            whole = answer.facts[OF].replace(str(len(BODY)), str(10 << 30))
            return Packet(HELD, answer.address, {}, {OF: whole})

        return found

    made = net(tmp_path, north=boasts)
    found = made.exchange(list(LARGE))
    assert "is of 10737418240 bytes, expected at most" in reason(found["north"])
    assert FETCH not in [packet.kind for packet in made.sent("north")]
    assert isinstance(found["south"][0], Reply)


def chunk(change: Callable[[Packet], Packet]) -> Callable[[Answer], Answer]:
    """Changes the second chunk of an answer."""

    def changed(honest: Answer) -> Answer:
        def found(packet: Packet) -> Any:
            answer = honest(packet)
            assert isinstance(answer, Packet)
            return change(answer) if answer.kind == CHUNK and answer.facts[INDEX] == 1 else answer

        return found

    return changed


def with_part(packet: Packet, data: bytes, **facts: Any) -> Packet:
    return Packet(CHUNK, packet.address, {PART: data}, {**packet.facts, **facts})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: with_part(p, p.parts[PART], index=0), "chunk 0 came, asked was 1"),
        (lambda p: with_part(p, p.parts[PART], index="one"), "has no chunk's number"),
        (lambda p: with_part(p, p.parts[PART][:-1]), "chunk 1 has 999 bytes, expected 1000"),
        (lambda p: with_part(p, b"!" * SIZE), "a message is damaged"),
        (lambda p: Packet(KEPT, p.address), "all chunks of a message were taken, and none was"),
        (lambda p: Packet(HELD, p.address), "is a 'held' message"),
        (lambda p: Packet(CHUNK, replace(p.address, job="0-7"), p.parts, p.facts), "job '0-7'"),
        (lambda p: Packet(CHUNK, replace(p.address, ask="old"), p.parts, p.facts), "message 'old'"),
        (lambda p: with_part(p, bytes(9999)), "is of 9999 bytes, expected at most 1000"),
    ],
    ids=range(9),
)
def test_a_wrong_chunk_is_one_failure_of_its_client(
    change: Callable[[Packet], Packet], told: str, tmp_path: Path
) -> None:
    found = net(tmp_path, north=chunk(change)).exchange(list(LARGE))
    assert told in reason(found["north"])
    assert all(isinstance(found[name][0], Reply) for name in ("east", "south"))
    assert list((tmp_path / "server").iterdir()) == []


def test_a_node_that_goes_between_chunks_is_asked_again_at_its_next_one(tmp_path: Path) -> None:
    second = client(Mailbox(tmp_path / "again", SIZE))

    def goes(honest: Answer) -> Answer:
        def found(packet: Packet) -> Any:
            if packet.kind == FETCH and packet.facts[INDEX] == 1:
                made.link.answers.pop(1, None)
                made.link.answers[4] = client_again
                return None
            return honest(packet)

        return found

    made = net(tmp_path, north=goes)
    before = made.link.answers[1]
    client_again: Answer = lambda p: before(p) if p.kind == DESCRIBE else second(p)  # noqa: E731
    (reply,) = made.exchange(list(LARGE))["north"]
    assert isinstance(reply, Reply), reply
    assert reply.payload == BODY


def test_an_answer_in_chunks_that_comes_too_late_is_dropped(tmp_path: Path) -> None:
    made = net(
        tmp_path,
        north=lambda honest: (
            lambda p: honest(p) if p.kind != FETCH or made.clock.now > 40 else None
        ),
    )
    assert "no answer in 30 s" in reason(made.exchange(list(LARGE))["north"])
    made.clock.now = 41.0
    again = [replace(job, id=f"2-{i}", round=2) for i, job in enumerate(LARGE)]
    (reply,) = made.exchange(list(again))["north"]
    assert isinstance(reply, Reply)
    assert made.notes == ["the answer of client north to job 1-1 came too late and was thrown away"]


def put(packet: Packet, index: Any, data: bytes, ask: str = "a", **address: Any) -> Packet:
    facts = {OF: packed(packet)[0].decode(), INDEX: index}
    return Packet(PUT, replace(packet.address, ask=ask, **address), {PART: data}, facts)


def test_chunks_may_come_in_any_order_and_each_once(tmp_path: Path) -> None:
    answer = client(Mailbox(tmp_path, SIZE))
    whole = Packet("train", ASKED, {"payload": BODY})
    parts = [BODY[:1000], BODY[1000:2000], BODY[2000:]]
    assert answer(put(whole, 2, parts[2])).kind == KEPT  # type: ignore[union-attr]
    for index, data, told in (
        (2, parts[2], "chunk 2 of a message came twice"),
        (3, b"", "chunk 3 came of a message of 3 chunks"),
        (-1, b"", "chunk -1 came"),
        (0, b"short", "chunk 0 has 5 bytes, expected 1000"),
    ):
        with pytest.raises(WireError, match=told):
            answer(put(whole, index, data))
    with pytest.raises(WireError, match="a chunk is of job '9', its message of '1-0'"):
        answer(put(whole, 0, parts[0], job="9"))
    assert answer(put(whole, 0, parts[0])).kind == KEPT  # type: ignore[union-attr]
    done = answer(put(whole, 1, parts[1], ask="last"))
    assert isinstance(done, Packet)
    assert (done.kind, done.address.ask) == (HELD, "last")
    other = Packet(FETCH, replace(ASKED, ask="b"), {}, {INDEX: 0, "message": "an older one"})
    with pytest.raises(WireError, match="is not held any more"):
        answer(other)


def test_a_job_that_is_too_large_is_refused_by_its_header(tmp_path: Path) -> None:
    answer = client(Mailbox(tmp_path / "c", SIZE))
    large = Packet("train", ASKED, {"payload": bytes(100_001)})
    with pytest.raises(WireError, match="is of 100001 bytes, expected at most 100000"):
        answer(put(large, 0, bytes(1000)))
    assert not (tmp_path / "c").exists()


def test_what_is_in_memory_while_chunks_come_is_one_of_them(tmp_path: Path) -> None:
    size, count = 1 << 20, 16
    header = read_header(packed(Packet("reply", ASKED, {"payload": bytes(size * count)}))[0])
    pieces = Pieces(tmp_path / "body", header, size)
    tracemalloc.start()
    try:
        for index in range(count):
            pieces.add(index, bytes(size))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * size
    assert pieces.complete
    assert pieces.packet().parts["payload"] == bytes(size * count)
