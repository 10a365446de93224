"""Jobs go out and answers come back as they were, bit for bit; Δ by version, no more than lacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from flexlora.adapters import Adapter, Delta, Factors, factors_payload
from flexlora.engines.jobs import Evaluate, Failure, Job, Offer, Reply, Scored, Train, TrainSparse
from flexlora.errors import WireError
from flexlora.evaluation import ClientScore
from flexlora.flower.jobs import Behind, job_packet, packet_job
from flexlora.flower.outcomes import behind_packet, outcome_packet, packet_outcome
from flexlora.flower.packets import Address, Packet, packed, read_header, unpacked
from flexlora.formats.delta import update_payload
from flexlora.formats.payloads import to_bytes
from flexlora.lowrank import LowRank
from flexlora.seeds import seeded
from flexlora.training import Recipe
from small import train_job

RECIPE = Recipe("sgd", 0.1, 2, epochs=3, max_steps=None, clip_norm=None, dropout=0.1)
ASKED = Address("a1", 1, "1-0", "north", "77")


def carried(packet: Packet) -> Packet:
    header, body = packed(packet)
    return unpacked(read_header(header), body)


def sent(job: Job, held: int | None = None) -> Packet:
    return carried(job_packet(job, "a1", "77", held))


def matrix(seed: int, dtype: torch.dtype = torch.float32) -> LowRank:
    draw = seeded(seed)
    left, right = torch.randn(6, 2, generator=draw), torch.randn(2, 5, generator=draw)
    return LowRank(left.to(dtype), right.to(dtype))


def deltas(rounds: int) -> list[Delta]:
    """A Δ after each of so many rounds, each of which adds a little to the rank."""
    found = [Delta()]
    for version in range(1, rounds + 1):
        patch = {"x": matrix(version)}
        held = found[-1].layers.get("x")
        whole = patch["x"] if held is None else held + patch["x"]
        found.append(found[-1].advanced({"x": whole}, patch))
    return found


def test_a_job_to_train_comes_as_it_was() -> None:
    bf16 = Factors(torch.randn(4, 2).bfloat16(), torch.randn(2, 3).bfloat16(), 0.5)
    job = train_job(
        "north",
        to_bytes(factors_payload(Adapter({"x": bf16}))),
        recipe=RECIPE,
        seed=2**63 - 1,
        origin=True,
        sides="a",
        metrics=("loss", "bits"),
        kept=(1, 4),
        answered=6,
    )
    found = packet_job(sent(job), None)
    assert isinstance(found, Train)
    left_out: dict[str, Any] = {"delta": job.delta, "held": None, "bytes_down": 0}
    assert replace(found, **left_out).__dict__ == replace(job, **left_out).__dict__


def test_other_jobs_come_as_they_were() -> None:
    sparse = TrainSparse("1-0", 1, "north", b"bytes", {"x": 5}, 2**62, RECIPE, 7)
    scoring = Evaluate("2-evaluate-0", 2, "north", b"bytes", ("loss",), None)
    for job in (sparse, scoring):
        assert packet_job(sent(job), None).__dict__ == job.__dict__


def test_a_client_gets_what_it_lacks_of_delta_and_nothing_more() -> None:
    """Held: none of it; the step before: one patch; two behind: both; all: nothing."""
    whole = deltas(4)
    job = train_job("north", b"payload", delta=whole[4], held=3)
    update = whole[4].since(3)
    assert update is not None
    patch = len(to_bytes(update_payload(update)))
    for held in (None, 2, 3, 4):
        packet = sent(job, held)
        lacks = whole[4].since(held)
        size = 0 if lacks is None else len(to_bytes(update_payload(lacks)))
        assert sum(map(len, packet.parts.values())) == len(b"payload") + size
        assert (size == patch) == (held == 3)
        found = packet_job(packet, None if held is None else whole[held])
        assert isinstance(found, Train)
        assert found.delta.version == 4
        assert torch.equal(found.delta.layers["x"].left, whole[4].layers["x"].left)
        assert torch.equal(found.delta.layers["x"].right, whole[4].layers["x"].right)


@pytest.mark.parametrize(("believed", "holds"), [(3, None), (3, 1), (4, 3), (4, None)])
def test_a_client_that_holds_another_delta_says_so(believed: int, holds: int | None) -> None:
    whole = deltas(4)
    packet = sent(train_job("north", delta=whole[4]), believed)
    with pytest.raises(Behind) as told:
        packet_job(packet, None if holds is None else whole[holds])
    assert told.value.held == holds
    back = packet_outcome(carried(behind_packet(told.value, ASKED)))
    assert isinstance(back, Behind)
    assert back.held == holds


def test_answers_come_as_they_were() -> None:
    score = ClientScore("north", "several", 3, {"loss": 0.1 + 0.2}, {"bits": 2.5})
    reply = Reply("1-0", "north", b"\x00bytes", 4, 1 / 3, 5, 60, 0.25, score, 10**9)
    for outcome in (
        reply,
        replace(reply, score=None),
        Scored("1-0", "north", score),
        Failure("1-0", "north", "it ran out of memory"),
        Offer("1-0", "north", {"x.q_proj": 4, "x.up_proj": 1}, "it ran out of memory"),
    ):
        assert packet_outcome(carried(outcome_packet(outcome, ASKED))).__dict__ == outcome.__dict__


@pytest.mark.parametrize(
    "packet",
    [
        Packet("gossip", ASKED),
        Packet("reply", ASKED, {"payload": b""}, {"examples": "many"}),
        Packet("reply", ASKED, {}, {}),
        Packet("failure", ASKED, {}, {}),
        Packet("scored", ASKED, {}, {"score": {"client": 3}}),
        Packet("behind", ASKED, {}, {"held": "all"}),
        Packet("offer", ASKED, {}, {"ranks": {"x": 1.5}, "reason": "no room"}),
        Packet("offer", ASKED, {}, {"ranks": 4, "reason": "no room"}),
    ],
    ids=lambda packet: packet.kind,
)
def test_what_is_no_answer_is_told(packet: Packet) -> None:
    with pytest.raises(WireError, match="message"):
        packet_outcome(carried(packet))


@pytest.mark.parametrize(
    "facts", [{"sides": "up"}, {"recipe": {"optimiser": "adamw"}}, {"seed": 3}, {"version": "1"}]
)
def test_what_is_no_job_is_told(facts: dict[str, object]) -> None:
    packet = sent(train_job("north", recipe=RECIPE))
    broken = Packet(packet.kind, packet.address, packet.parts, {**packet.facts, **facts})
    with pytest.raises(WireError, match="is no job"):
        packet_job(carried(broken), None)
