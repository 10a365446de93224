"""Jobs to nodes, answers back: deadlines, what comes late, twice or for another, what is lost."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexlora.adapters import Delta
from flexlora.engines.jobs import Failure, Job, Outcome, Reply
from flexlora.flower.described import DESCRIBE
from flexlora.flower.grid import Grid
from flexlora.flower.jobs import Behind
from flexlora.flower.nodes import Came, Lost
from flexlora.flower.outcomes import behind_packet, outcome_packet
from flexlora.flower.packets import Packet, packed
from flexlora.flower.register import Register
from flower.links import NORTH, Answer, Clock, FakeLink
from flower.test_wire import deltas
from flower.trainers import networked, plan_of
from small import train_job

NAMES = ("east", "north", "south")
JOBS = [replace(train_job(name, b"adapter"), id=f"1-{i}") for i, name in enumerate(NAMES)]


def client(name: str, answer: Answer | None = None) -> Answer:
    """Describes itself, and answers jobs so (default: with a good reply)."""

    def found(packet: Packet) -> Any:
        if packet.kind == DESCRIBE:
            return replace(NORTH, name=name).to_packet(packet.address)
        return good(packet) if answer is None else answer(packet)

    return found


def good(packet: Packet) -> Packet:
    asked = packet.address
    reply = Reply(asked.job, asked.client, packet.parts["payload"], 4, 0.5, 1, 20, 0.1)
    return outcome_packet(reply, asked)


class Net:
    """Three clients, of which some answer otherwise."""

    def __init__(
        self, folder: Path = Path("unused"), chunk: int = 1 << 24, **answers: Answer
    ) -> None:
        self.clock = Clock()
        self.notes: list[str] = []
        self.link = FakeLink(
            {place: client(name, answers.get(name)) for place, name in enumerate(NAMES)}
        )
        plan = plan_of(networked())
        self.register = Register(self.link, plan, NORTH.model, deadline=10.0, clock=self.clock)
        self.register.look()
        self.grid = Grid(
            self.link,
            self.register,
            plan,
            deadline=30.0,
            folder=folder,
            chunk=chunk,
            poll=1.0,
            clock=self.clock,
            sleep=self.clock.sleep,
            noted=self.notes.append,
        )

    def exchange(self, jobs: Sequence[Job] | None = None) -> dict[str, list[Outcome]]:
        found: dict[str, list[Outcome]] = {name: [] for name in NAMES}
        for outcome in self.grid.exchange(JOBS if jobs is None else jobs):
            found[outcome.client].append(outcome)
        return found

    def sent(self, name: str) -> list[Packet]:
        return [
            packet
            for node, packet in self.link.sent
            if NAMES[node % 3] == name and packet.kind != DESCRIBE
        ]


def reason(outcomes: list[Outcome]) -> str:
    (outcome,) = outcomes
    assert isinstance(outcome, Failure)
    return outcome.reason


def test_every_job_goes_to_its_client_and_its_answer_comes_back() -> None:
    net = Net()
    found = net.exchange()
    for job, name in zip(JOBS, NAMES, strict=True):
        (reply,) = found[name]
        assert isinstance(reply, Reply)
        assert (reply.job, reply.payload) == (job.id, b"adapter")


def test_seconds_on_the_wire_are_by_the_servers_clock_beside_the_training() -> None:
    def slow(seconds: float) -> Answer:
        def answer(packet: Packet) -> Packet | None:
            found = good(packet)
            facts = {**found.facts, "seconds": seconds}
            told = Packet(found.kind, found.address, found.parts, facts)
            return told if net.clock.now >= 5 else None

        return answer

    net = Net(north=slow(3.0), south=slow(1e9))
    replies = {x.client: x for x in net.grid.exchange(JOBS) if isinstance(x, Reply)}
    assert replies["north"].wire_seconds == 2.0
    assert replies["south"].wire_seconds == 5.0
    assert replies["east"].wire_seconds == 0.0


def test_answers_are_given_as_they_come_and_the_missing_at_the_deadline() -> None:
    net = Net(north=lambda _: None)
    order = [(x.client, type(x)) for x in net.grid.exchange(JOBS)]
    assert order == [("east", Reply), ("south", Reply), ("north", Failure)]
    assert 30.0 <= net.clock.now <= 31.0


def test_a_late_answer_is_thrown_away_and_the_next_round_is_its_own() -> None:
    net = Net(north=lambda packet: good(packet) if net.clock.now > 40 else None)
    assert "no answer in 30 s, the deadline" in reason(net.exchange()["north"])
    net.clock.now = 41.0
    second = [replace(job, id=f"2-{i}", round=2) for i, job in enumerate(JOBS)]
    (reply,) = net.exchange(second)["north"]
    assert isinstance(reply, Reply)
    assert reply.job == "2-1"
    assert net.notes == ["the answer of client north to job 1-1 came too late and was thrown away"]


def test_an_exchange_that_is_closed_when_enough_have_come_drops_the_rest() -> None:
    slow = net = Net(north=lambda packet: good(packet) if slow.clock.now > 5 else None)
    answers = net.grid.exchange(JOBS)
    assert {next(answers).client, next(answers).client} == {"east", "south"}
    assert isinstance(answers, Generator)
    answers.close()
    net.clock.now = 6.0
    second = [replace(job, id=f"2-{i}", round=2) for i, job in enumerate(JOBS)]
    (reply,) = net.exchange(second)["north"]
    assert isinstance(reply, Reply)
    assert reply.job == "2-1"
    assert net.notes == ["the answer of client north to job 1-1 came too late and was thrown away"]


def test_a_deadline_that_nobody_meets_is_told_with_the_fastest_answer_so_far() -> None:
    def slow(packet: Packet) -> Packet | None:
        return good(packet) if net.clock.now > 45 else None

    net = Net(north=slow, east=slow, south=slow)
    reasons = [reason(found) for found in net.exchange().values()]
    assert set(reasons) == {
        "no answer in 30 s, the deadline; nobody has answered a job yet; raise deadline"
    }
    net.clock.now = 46.0
    net.exchange([])
    net.link.answers = dict.fromkeys(net.link.answers, client("nobody", lambda _: None))
    second = [replace(job, id=f"2-{i}", round=2) for i, job in enumerate(JOBS)]
    assert "the fastest answer so far took 46.0 s" in reason(net.exchange(second)["north"])


def otherwise(**changes: Any) -> Answer:
    return lambda packet: good(
        Packet(packet.kind, replace(packet.address, **changes), packet.parts, packet.facts)
    )


def damaged(packet: Packet) -> Came:
    header, body = packed(good(packet))
    return Came(header, body[:-1] + b"!")


def huge(packet: Packet) -> Packet:
    return good(Packet(packet.kind, packet.address, {"payload": bytes(2 << 20)}, packet.facts))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (otherwise(run="b2"), "is of run 'b2', asked was 'a1'"),
        (otherwise(round=9), "is of round 9, asked was 1"),
        (otherwise(job="1-0"), "is of job '1-0', asked was '1-1'"),
        (otherwise(client="south"), "is of client 'south', asked was 'north'"),
        (otherwise(ask="older"), "is of message 'older', asked was "),
        (lambda p: Packet("reply", p.address, {}, {}, "0.0.1"), "other side has FlexLoRA 0.0.1"),
        (damaged, "a message is damaged"),
        (huge, "is of 2097152 bytes, expected at most"),
        (lambda _: Came(b"\x80", b""), "no header of FlexLoRA"),
        (lambda _: Lost("Flower's error 5: unavailable"), "Flower's error 5: unavailable"),
        (lambda p: Packet("gossip", p.address), "the answer is a 'gossip' message"),
    ],
    ids=range(11),
)
def test_a_wrong_answer_is_one_failure_of_its_client(answer: Answer, told: str) -> None:
    found = Net(north=answer).exchange()
    assert told in reason(found["north"])
    assert all(isinstance(found[name][0], Reply) for name in ("east", "south"))


def test_a_client_that_is_away_is_a_failure_once_the_others_are_done() -> None:
    net = Net()
    del net.link.answers[1]
    assert reason(net.exchange()["north"]) == "its node is not connected"
    assert net.clock.now < 30.0


def test_a_client_whose_node_goes_is_asked_again_at_its_next_one() -> None:
    net = Net(north=lambda _: None, east=lambda p: good(p) if net.clock.now > 8 else None)
    outcomes: list[Outcome] = []
    for outcome in net.grid.exchange(JOBS):
        outcomes.append(outcome)
        if outcome.client == "south":  # The first to answer.
            del net.link.answers[1]
            net.link.answers[4] = client("north")
    assert {x.client: type(x) for x in outcomes} == dict.fromkeys(NAMES, Reply)
    assert len(outcomes) == 3
    assert {x.client: x.back for x in outcomes if isinstance(x, Reply)} == {
        "east": False,
        "north": True,
        "south": False,
    }
    assert len(net.sent("north")) == 2
    assert net.notes == [
        "client north has gone: its node is not connected any more",
        "client north is back",
    ]
    again: list[Job] = [replace(job, id=f"2-{i}", round=2) for i, job in enumerate(JOBS)]
    assert not any(isinstance(x, Reply) and x.back for x in net.grid.exchange(again[1:2]))


def test_a_client_that_has_lost_delta_is_sent_what_it_lacks_in_the_same_round() -> None:
    whole = deltas(4)

    def forgetful(packet: Packet) -> Packet:
        if "delta" not in packet.parts:
            return behind_packet(Behind(None), packet.address)
        return good(packet)

    net = Net(north=forgetful)
    net.grid.exchange([])
    jobs = [replace(job, delta=whole[3], held=None) for job in JOBS]
    first = net.exchange(list(jobs))
    assert all(isinstance(found[0], Reply) for found in first.values())
    assert [packet.facts["version"] for packet in net.sent("north")] == [3]
    again = net.exchange([replace(job, held=3) for job in jobs])
    assert all(isinstance(found[0], Reply) for found in again.values())
    assert [sorted(packet.parts) for packet in net.sent("north")] == [
        ["delta", "payload"],
        ["payload"],
        ["delta", "payload"],
    ]
    assert [sorted(packet.parts) for packet in net.sent("east")] == [
        ["delta", "payload"],
        ["payload"],
    ]


def test_a_client_that_never_comes_to_hold_delta_is_a_failure() -> None:
    net = Net(north=lambda packet: behind_packet(Behind(2), packet.address))
    jobs: list[Job] = [replace(job, delta=Delta(3, deltas(3)[3].layers)) for job in JOBS]
    assert "it does not come to hold Δ (holds 2)" in reason(net.exchange(jobs)["north"])
