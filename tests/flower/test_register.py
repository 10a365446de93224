"""Nodes are known by their operator's name; whoever does not fit is refused with a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from flexlora.flower.described import REFUSED, Described
from flexlora.flower.nodes import Came, Lost
from flexlora.flower.packets import FAILURE, Packet, packed
from flexlora.flower.register import Register
from flower.links import NORTH, Answer, Clock, FakeLink
from flower.trainers import networked, plan_of


def tells(described: Described) -> Answer:
    return lambda packet: described.to_packet(packet.address)


def register(link: FakeLink, clock: Clock | None = None) -> Register:
    return Register(link, plan_of(networked()), "f" * 64, deadline=10.0, clock=clock or Clock())


def test_a_client_is_known_by_its_name_whatever_its_node() -> None:
    link = FakeLink({7: tells(NORTH), 3: tells(replace(NORTH, name="south"))})
    found = register(link)
    found.look()
    assert (found.node("north"), found.node("south"), found.node("east")) == (7, 3, None)
    del link.answers[7]
    found.look(anew=True)
    assert found.node("north") is None
    link.answers[12] = tells(NORTH)
    found.look(anew=True)
    assert found.node("north") == 12
    assert [node for node, _ in link.sent] == [3, 7, 12]  # Each is asked once.


def changed(**changes: Any) -> Answer:
    def answer(packet: Packet) -> Packet:
        told = NORTH.to_packet(packet.address)
        return Packet(told.kind, told.address, {}, {**told.facts, **changes})

    return answer


def of_version(packet: Packet) -> Packet:
    return Packet("described", packet.address, {}, {}, "0.0.1")


def refusing(packet: Packet) -> Packet:
    return Packet(FAILURE, packet.address, {}, {"reason": "it has no data"})


def to_another(packet: Packet) -> Packet:
    return NORTH.to_packet(replace(packet.address, ask="an older one"))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (changed(model="e" * 64), "base model of fingerprint eeeeeeeeeeee, the server one of ffff"),
        (changed(name=""), "what a client tells of itself cannot be used: name is ''"),
        (changed(name="a\nb"), "cannot be used: name is 'a\\nb'"),
        (changed(train=-1), "cannot be used: train is -1"),
        (changed(rank="high"), "cannot be used: rank is 'high'"),
        (changed(labels=[1]), "cannot be used: labels"),
        (changed(labels={"a": -1}), "cannot be used: a is -1"),
        (changed(labels={"a": 10**400}), "cannot be used: a is 1"),
        (changed(labels={"a": 12}), "labels are 12 examples, its parts 11"),
        (changed(labels={"\ud800": 11}), "labels has '\\ud800', expected up to 1000 letters"),
        (changed(labels={"a" * 1001: 11}), "expected up to 1000 letters"),
        (changed(train_digest="\ud800"), "train_digest is '\\ud800', expected the 64 digits"),
        (changed(held_out_digest="x"), "held_out_digest is 'x', expected the 64 digits"),
        (changed(rank=0), "rank is 0, expected 1 to 1,000,000"),
        (changed(rank=1_000_001), "rank is 1000001, expected 1 to 1,000,000"),
        (changed(fitting=0), "fitting is 0, expected an example to train on"),
        (changed(fitting=10), "truncated, fitting and train are 0, 10 and 9 examples"),
        (changed(truncated=10), "truncated, fitting and train are 10, 9 and 9 examples"),
        (of_version, "the other side has FlexLoRA 0.0.1"),
        (refusing, "it has no data"),
        (to_another, "of message 'an older one', asked was "),
        (lambda _: Lost("Flower's error 5: gone"), "Flower's error 5: gone"),
        (lambda _: Came(b"gossip", b""), "no header of FlexLoRA"),
        (lambda _: Packet("reply", Packet("", _.address).address), "told of itself by a 'reply'"),
    ],
    ids=range(24),
)
def test_a_node_that_does_not_fit_is_refused(answer: Answer, told: str) -> None:
    found = register(FakeLink({7: answer}))
    found.look()
    assert found.seats == {}
    assert told in found.refused[7]


def test_what_breaks_the_server_s_own_look_is_a_refusal_of_that_node() -> None:
    def unserved(one: Described) -> str:
        if one.name == "north":
            raise ZeroDivisionError("integer division\nby zero")
        return ""

    link = FakeLink({7: tells(NORTH), 3: tells(replace(NORTH, name="south"))})
    found = Register(
        link, plan_of(networked()), "f" * 64, deadline=10.0, clock=Clock(), unserved=unserved
    )
    found.look()
    assert found.node("south") == 3
    assert found.refused == {7: "ZeroDivisionError: integer division by zero"}


def test_a_reason_of_a_client_is_one_line_that_moves_no_cursor() -> None:
    def forging(packet: Packet) -> Packet:
        reason = "no data\x1b]0;owned\x07\x1b[2J\nround 9: 10 clients, train loss 0.0001"
        return Packet(FAILURE, packet.address, {}, {"reason": reason})

    found = register(FakeLink({7: forging}))
    found.look()
    assert found.refused[7].startswith("no data\\x1b]0;owned\\x07\\x1b[2J\\nround 9")
    assert found.refused[7].isprintable()


def test_a_node_that_says_nothing_is_refused_when_its_time_is_over() -> None:
    clock = Clock()
    found = register(FakeLink({7: lambda _: None}), clock)
    found.look()
    assert found.asking == 1
    clock.now = 11.0
    found.look()
    assert (found.asking, found.refused) == (0, {7: "it gave no answer in time"})


def test_two_clients_of_one_name_are_told_apart_by_who_was_first() -> None:
    found = register(FakeLink({3: tells(NORTH), 7: tells(NORTH)}))
    found.look()
    assert found.node("north") == 3
    assert "two clients are called north, nodes 3 and 7; give each a name" in found.refused[7]


@pytest.mark.parametrize(
    ("key", "changes", "told"),
    [
        (b"another", {}, "a second node calls itself north, with another key"),
        (b"own", {"train_digest": "c" * 64}, "north came back with other examples"),
    ],
)
def test_who_comes_back_has_to_be_who_went(
    key: bytes, changes: Mapping[str, Any], told: str
) -> None:
    link = FakeLink({3: tells(NORTH)}, keys={3: b"own", 7: key})
    found = register(link)
    found.look()
    link.answers = {7: tells(replace(NORTH, **changes))}
    found.look(anew=True)
    assert found.node("north") is None
    assert told in found.refused[7]


def test_who_was_refused_is_asked_again_after_a_while() -> None:
    clock, ready = Clock(), False
    link = FakeLink({7: lambda packet: (tells(NORTH) if ready else refusing)(packet)})
    found = register(link, clock)
    found.look()
    ready = True
    clock.now = 14.0
    found.look()
    assert found.node("north") is None
    clock.now = 16.0
    found.look()
    assert (found.node("north"), found.refused) == (7, {})


def test_whoever_is_refused_is_told_why_once() -> None:
    """But for one that cannot take part by its own word: it has said so itself."""
    clock = Clock()
    link = FakeLink({3: refusing, 5: changed(model="e" * 64), 7: tells(NORTH)})
    found = register(link, clock)
    found.look()
    told = [(node, packet.facts["reason"]) for node, packet in link.sent if packet.kind == REFUSED]
    assert told == [(5, found.refused[5])]
    assert found.telling == 1
    clock.now = 16.0
    found.look()
    assert 5 in found.refused
    assert found.telling == 0
    assert sum(packet.kind == REFUSED for _, packet in link.sent) == 1
    link.answers[5] = changed(name="")
    clock.now = 32.0
    found.look()
    assert [packet.facts["reason"] for _, packet in link.sent if packet.kind == REFUSED][1:] == [
        found.refused[5]
    ]


def test_a_node_that_does_not_take_in_why_is_not_waited_for() -> None:
    clock, first = Clock(), changed(model="e" * 64)
    found = register(FakeLink({5: lambda p: None if p.kind == REFUSED else first(p)}), clock)
    found.look()
    clock.now = 11.0
    found.look()
    assert found.telling == 1
    clock.now = 12.0
    found.look()
    assert found.telling == 0


def test_what_travels_is_what_it_says() -> None:
    packet = Packet("described", NORTH.to_packet(register_address()).address)
    told = NORTH.to_packet(packet.address)
    assert Described.from_packet(told) == NORTH
    header, body = packed(told)
    assert body == b""
    assert b"north" in header


def register_address() -> Any:
    from flower.trainers import describe

    return describe().address
