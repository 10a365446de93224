"""A client's answer as a packet, and back. What its values may be, `federation.outcomes` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexlora.engines.jobs import Failure, Offer, Outcome, Reply, Scored, Spare
from flexlora.errors import WireError, shown
from flexlora.evaluation import ClientScore
from flexlora.flower.jobs import Behind
from flexlora.flower.packets import FAILURE, Address, Packet
from flexlora.formats.json_fields import counts, number, numbers, table, text, whole

REPLY, SCORED, BEHIND, OFFER = "reply", "scored", "behind", "offer"
_PAYLOAD = "payload"
WITHHELD = "its data cannot be used as this run asks; its own log says why, and may quote it"
"""What the server is told of a failure whose reason is private."""


def outcome_packet(outcome: Outcome, asked: Address) -> Packet:
    """The answer to what came from this address, without what is the client's alone."""
    assert not isinstance(outcome, Spare), "the server's own word"
    if isinstance(outcome, Failure):
        reason = WITHHELD if outcome.private else outcome.reason
        return Packet(FAILURE, asked, {}, {"reason": reason})
    if isinstance(outcome, Scored):
        return Packet(SCORED, asked, {}, {"score": _score_facts(outcome.score)})
    if isinstance(outcome, Offer):
        return Packet(OFFER, asked, {}, {"ranks": dict(outcome.ranks), "reason": outcome.reason})
    facts: dict[str, Any] = {
        "examples": outcome.examples,
        "loss": outcome.loss,
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "seconds": outcome.seconds,
        "peak_bytes": outcome.peak_bytes,
        "score": None if outcome.score is None else _score_facts(outcome.score),
    }
    return Packet(REPLY, asked, {_PAYLOAD: outcome.payload}, facts)


def behind_packet(behind: Behind, asked: Address) -> Packet:
    return Packet(BEHIND, asked, {}, {"held": behind.held})


def packet_outcome(packet: Packet) -> Outcome | Behind:
    """Raises WireError for what is no answer; the rest of its values are looked at by the loop."""
    job, client, facts = packet.address.job, packet.address.client, packet.facts
    try:
        if packet.kind == BEHIND:
            return Behind(None if facts["held"] is None else whole(facts, "held"))
        if packet.kind == FAILURE:
            return Failure(job, client, text(facts, "reason"))
        if packet.kind == SCORED:
            return Scored(job, client, _score(table(facts, "score")))
        if packet.kind == OFFER:
            return Offer(job, client, counts(facts, "ranks"), text(facts, "reason"))
        if packet.kind != REPLY:
            raise WireError(f"the answer is a {shown(packet.kind)} message; expected a reply")
        score = None if facts["score"] is None else _score(table(facts, "score"))
        return Reply(
            job=job,
            client=client,
            payload=packet.parts[_PAYLOAD],
            examples=whole(facts, "examples"),
            loss=number(facts, "loss"),
            steps=whole(facts, "steps"),
            tokens=whole(facts, "tokens"),
            seconds=number(facts, "seconds"),
            peak_bytes=None if facts["peak_bytes"] is None else whole(facts, "peak_bytes"),
            score=score,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise WireError(f"a {shown(packet.kind)} message is no answer: {error}") from error


def _score_facts(score: ClientScore) -> dict[str, Any]:
    return {
        "client": score.client,
        "category": score.category,
        "examples": score.examples,
        "means": dict(score.means),
        "weights": dict(score.weights),
    }


def _score(facts: Mapping[str, Any]) -> ClientScore:
    return ClientScore(
        text(facts, "client"),
        text(facts, "category"),
        whole(facts, "examples"),
        numbers(facts, "means"),
        numbers(facts, "weights"),
    )
