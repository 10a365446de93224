"""A job as a packet, and back: what it asks as plain values, its tensors as safetensors bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flexlora.adapters import Delta, Sides
from flexlora.engines.jobs import Evaluate, Job, Train, TrainSparse
from flexlora.errors import FlexLoRAError, WireError, shown
from flexlora.flower.packets import Address, Packet
from flexlora.formats.delta import payload_update, update_payload
from flexlora.formats.json_fields import counts, items, table, text, texts, whole
from flexlora.formats.payloads import from_bytes, to_bytes
from flexlora.runs.fields import truth
from flexlora.training.recipe import Recipe

TRAIN, SPARSE, EVALUATE = "train", "train_sparse", "evaluate"
_PAYLOAD, _DELTA = "payload", "delta"
_SIDES: tuple[Sides, ...] = ("both", "a", "b")


class Behind(Exception):
    """A client holds another version of Δ (None: none) than the one that it was sent a step from.

    It asks for what it lacks: no failure, and never seen outside of an exchange.
    """

    def __init__(self, held: int | None) -> None:
        self.held = held


def job_packet(job: Job, run: str, ask: str, held: int | None) -> Packet:
    """held: the version of Δ that the client holds: what it lacks goes with the job."""
    address = Address(run, job.round, job.id, job.client, ask)
    parts = {_PAYLOAD: job.payload}
    if isinstance(job, Evaluate):
        facts: dict[str, Any] = {"metrics": list(job.metrics), "answered": job.answered}
        return Packet(EVALUATE, address, parts, facts)
    facts = {"recipe": asdict(job.recipe), "seed": str(job.seed)}
    if isinstance(job, TrainSparse):
        return Packet(
            SPARSE,
            address,
            parts,
            {**facts, "trained": dict(job.trained), "mask": str(job.mask)},
        )
    update = job.delta.since(held)
    if update is not None:
        parts[_DELTA] = to_bytes(update_payload(update))
    facts |= {
        "version": job.delta.version,
        "empty": not job.delta.layers,
        "origin": job.origin,
        "sides": job.sides,
        "metrics": list(job.metrics),
        "kept": list(job.kept),
        "answered": job.answered,
    }
    return Packet(TRAIN, address, parts, facts)


def packet_job(packet: Packet, delta: Delta | None) -> Job:
    """The job of a packet, for a client that holds this Δ.

    A job to train carries the Δ that it stands on. Raises `Behind` where the client holds another
    version than the packet builds on, and WireError for what is no job.
    """
    try:
        return _job(packet, delta)
    except (ValueError, KeyError, TypeError, FlexLoRAError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError(f"a {shown(packet.kind)} message is no job: {error}") from error


def _job(packet: Packet, delta: Delta | None) -> Job:
    address, facts, payload = packet.address, packet.facts, packet.parts[_PAYLOAD]
    if packet.kind == EVALUATE:
        return Evaluate(
            id=address.job,
            round=address.round,
            client=address.client,
            payload=payload,
            metrics=texts(facts, "metrics"),
            answered=_perhaps(facts, "answered"),
        )
    recipe, seed = Recipe(**table(facts, "recipe")), _seed(facts, "seed")
    if packet.kind == SPARSE:
        return TrainSparse(
            id=address.job,
            round=address.round,
            client=address.client,
            payload=payload,
            trained=counts(facts, "trained"),
            mask=_seed(facts, "mask"),
            recipe=recipe,
            seed=seed,
        )
    if packet.kind != TRAIN:
        raise WireError(f"a message asks for {shown(packet.kind)}; expected a job")
    held = None if delta is None else delta.version
    return Train(
        id=address.job,
        round=address.round,
        client=address.client,
        payload=payload,
        delta=_delta(packet, delta),
        held=held,
        origin=truth(facts, "origin"),
        sides=_sides(text(facts, "sides")),
        recipe=recipe,
        seed=seed,
        metrics=texts(facts, "metrics"),
        bytes_down=sum(map(len, packet.parts.values())),
        kept=tuple(whole({"kept": x}, "kept") for x in items(facts, "kept")),
        answered=_perhaps(facts, "answered"),
    )


def _delta(packet: Packet, held: Delta | None) -> Delta:
    """Δ as the job stands on it: as it is held, or with what came."""
    version = whole(packet.facts, "version")
    if _DELTA in packet.parts:
        update = payload_update(from_bytes(packet.parts[_DELTA]))
        if update.start is not None and (held is None or update.start != held.version):
            raise Behind(None if held is None else held.version)
        found = (held or Delta()).updated(update)
    elif truth(packet.facts, "empty"):
        found = Delta(version)
    else:
        if held is None or held.version != version:
            raise Behind(None if held is None else held.version)
        found = held
    if found.version != version:
        raise WireError(f"Δ came as version {found.version}, its header says {version}")
    return found


def _sides(named: str) -> Sides:
    for sides in _SIDES:
        if sides == named:
            return sides
    raise ValueError(f"sides is {shown(named)}, expected one of {', '.join(_SIDES)}")


def _perhaps(facts: Mapping[str, Any], name: str) -> int | None:
    return None if facts[name] is None else whole(facts, name)


def _seed(facts: Mapping[str, Any], name: str) -> int:
    """As text on the way: 64 bits are more than some readers of JSON keep."""
    return int(text(facts, name)[:32])
