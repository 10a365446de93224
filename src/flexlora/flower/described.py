"""What a client tells of itself before a run: counts and digests, and no example."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexlora.allocation.devices import Device
from flexlora.allocation.mixes import LARGEST_RANK
from flexlora.errors import WireError, shown
from flexlora.flower.packets import Address, Packet
from flexlora.flower.profiles import device_facts, facts_device
from flexlora.formats.json_fields import table, text
from flexlora.runs.fields import natural, or_none

DESCRIBE, DESCRIBED = "describe", "described"
REFUSED = "refused"
"""The kind of packet that tells a client, by its fact "reason", why it does not take part; its
answer is of the same kind, and says nothing."""
_LONGEST = 200  # Characters of a client's name;
_LABEL = 1000  # of a label.


@dataclass(frozen=True)
class Described:
    """name: its operator's; rank: what it affords, None where the server is to decide; device: by
    which it is to, where its operator tells one, and then without a rank.

    train, validation, test: examples of its parts, as dealt; fitting: of the first, those that fit
    `max_tokens`; truncated: of these, those of which a part was cut; held_out: those that it
    scores; tokens: of their right answers. labels: label → examples of all parts, where its
    operator allows it. model: fingerprint of its base; digests: of the token ids that it trains on
    and that it scores on, salted with the run's id. held: the version of Δ that it holds.
    """

    name: str
    rank: int | None
    train: int
    validation: int
    test: int
    fitting: int
    truncated: int
    held_out: int
    tokens: int
    labels: Mapping[str, int] | None
    model: str
    train_digest: str
    held_out_digest: str
    held: int | None
    device: Device | None = None

    def to_packet(self, asked: Address) -> Packet:
        facts = dict(vars(self))
        facts["labels"] = None if self.labels is None else dict(self.labels)
        facts["device"] = None if self.device is None else device_facts(self.device)
        return Packet(DESCRIBED, asked, {}, facts)

    @staticmethod
    def from_packet(packet: Packet) -> Described:
        """Raises WireError naming what is of another type or out of range."""
        if packet.kind != DESCRIBED:
            raise WireError(f"a client told of itself by a {shown(packet.kind)} message")
        facts = packet.facts
        numbers = ("train", "validation", "test", "fitting", "truncated", "held_out", "tokens")
        try:
            name = text(facts, "name")
            if not (name.isprintable() and name.strip() == name and 0 < len(name) <= _LONGEST):
                raise ValueError(f"name is {shown(name)}, expected 1 to {_LONGEST} plain letters")
            found = {key: natural(facts, key) for key in numbers}
            if not found["truncated"] <= found["fitting"] <= found["train"]:
                raise ValueError(
                    "truncated, fitting and train are {truncated}, {fitting} and {train} examples, "
                    "each a part of the next".format_map(found)
                )
            if not found["fitting"]:
                raise ValueError("fitting is 0, expected an example to train on")
            told = facts["device"]
            device = None if told is None else facts_device(table(facts, "device"))
            if device is not None and facts["rank"] is not None:
                raise ValueError("it tells both a rank and a device; set one of them")
            return Described(
                name=name,
                rank=or_none(_rank)(facts, "rank"),
                labels=or_none(_labels)(facts, "labels"),
                model=_digest(facts, "model"),
                train_digest=_digest(facts, "train_digest"),
                held_out_digest=_digest(facts, "held_out_digest"),
                held=or_none(natural)(facts, "held"),
                device=device,
                **found,
            )
        except (ValueError, KeyError) as error:
            raise WireError(f"what a client tells of itself cannot be used: {error}") from error


def _rank(facts: Mapping[str, Any], name: str) -> int:
    rank = natural(facts, name)
    if not 1 <= rank <= LARGEST_RANK:
        raise ValueError(f"{name} is {rank}, expected 1 to {LARGEST_RANK:,}")
    return rank


def _labels(facts: Mapping[str, Any], name: str) -> dict[str, int]:
    """Of all parts together, as many as these have, or none at all."""
    held = table(facts, name)
    found = {str(label): natural(held, label) for label in held}
    if odd := [label for label in found if not _writable(label)]:
        raise ValueError(f"{name} has {shown(odd[0])}, expected up to {_LABEL} letters")
    total = sum(natural(facts, part) for part in ("train", "validation", "test"))
    if sum(found.values()) != total:
        raise ValueError(f"{name} are {sum(found.values())} examples, its parts {total}")
    return found


def _digest(facts: Mapping[str, Any], name: str) -> str:
    value = text(facts, name)
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError(f"{name} is {shown(value)}, expected the 64 digits of a SHA-256")
    return value


def _writable(label: str) -> bool:
    """Whether a file can have it: no half of a surrogate pair, and of few letters."""
    return len(label) <= _LABEL and not any("\ud800" <= x <= "\udfff" for x in label)
