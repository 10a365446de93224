"""The warm trainer beside a client's node: packets in, packets out; the model loaded once."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from flexlora.adapters import Delta
from flexlora.engines.jobs import Failure, Offer, Train
from flexlora.errors import DataError, FlexLoRAError, WireError, cut_short, seen
from flexlora.flower.chunks import SIZE
from flexlora.flower.client_file import ClientFile
from flexlora.flower.described import DESCRIBE, REFUSED
from flexlora.flower.jobs import Behind, packet_job
from flexlora.flower.mailbox import Mailbox
from flexlora.flower.outcomes import behind_packet, outcome_packet
from flexlora.flower.packets import (
    NOBODY,
    Address,
    Header,
    Packet,
    packed,
    read_header,
    require_size,
    unpacked,
)
from flexlora.flower.part import Part
from flexlora.flower.plan import Plan
from flexlora.flower.profiles import device_of
from flexlora.formats.json_fields import table, text
from flexlora.formats.visible import brief

_REASON = 2000  # Characters.


def _to_log(words: str) -> None:
    print(f"flexlora: {words}", file=sys.stderr, flush=True)


class Trainer:
    """Answers the server's packets for one client; whatever comes, it stays there for the next.

    Every packet tells its run's plan, so that a trainer that was started anew, or that hears of a
    new run, makes itself ready by what it is asked. A run's Δ is held in memory: a trainer that has
    lost it says so, and is sent all of it.
    """

    def __init__(
        self,
        client: ClientFile,
        folder: Path,
        *,
        chunk: int = SIZE,
        say: Callable[[str], None] = _to_log,
    ) -> None:
        """chunk: bytes of a message's body that travel at once; say: is told, for the operator, why
        the server refuses this client, and what this client fails at. Raises ConfigError as
        `device_of`."""
        self._say = say
        self._said = ""
        self._client = client
        self._device = device_of(client)
        self._folder = folder
        self._part: Part | None = None
        self._delta: Delta | None = None
        self._mail = Mailbox(folder / "wire", chunk)

    def answer(self, header: bytes, body: Callable[[], bytes]) -> tuple[bytes, bytes]:
        """body: reads the bytes behind the header, and is called once those may come."""
        asked = NOBODY
        try:
            read = read_header(header)
            asked = read.packet.address
            return packed(self._mail.answer(read, body, self._require, self._answer))
        except FlexLoRAError as error:
            self._tell(f"cannot do what the server asks: {error}")
            return packed(_failed(asked, str(error), private=isinstance(error, DataError)))
        except Exception as error:  # A fault of ours: this round's alone, in full here alone.
            traceback.print_exc(file=sys.stderr)
            words = f"its trainer failed with {type(error).__name__}; its own log says more"
            return packed(_failed(asked, words))

    def _answer(self, header: Header, body: Callable[[], bytes]) -> Packet:
        asked = header.packet.address
        if header.packet.kind == REFUSED:
            return self._refused(header)
        part = self._part_of(header)
        if header.packet.kind == DESCRIBE:
            require_size(header, 0)
            return part.describe(self._delta).to_packet(asked)
        self._require(header)
        try:
            job = packet_job(unpacked(header, body()), self._delta)
        except Behind as behind:
            return behind_packet(behind, asked)
        if isinstance(job, Train):
            self._delta = job.delta
        outcome = part.do(job)
        if isinstance(outcome, Failure | Offer):
            self._tell(f"round {asked.round}: {outcome.reason}")
        else:
            self._said = ""
        return outcome_packet(outcome, asked)

    def _refused(self, header: Header) -> Packet:
        require_size(header, 0)
        try:
            reason = text(header.packet.facts, "reason")
        except ValueError as error:
            raise WireError(f"a server refuses this client and says no reason: {error}") from error
        self._tell(f"the server refuses this client: {brief(reason, _REASON)}")
        return Packet(REFUSED, header.packet.address)

    def _tell(self, words: str) -> None:
        """Once, however often it comes in a row."""
        if words != self._said:
            self._said = words
            self._say(words)

    def _require(self, header: Header) -> None:
        """Raise WireError, before a byte of its body is read, for a job that is not taken."""
        asked, part = header.packet.address, self._part_of(header)
        if asked.client != part.name:
            raise WireError(
                f"a job for client {seen(asked.client)} came to client {seen(part.name)}; each "
                "client needs a trainer and a node of its own"
            )
        require_size(header, part.limit_bytes())

    def _part_of(self, header: Header) -> Part:
        """Its part in the run that the packet is of."""
        try:
            plan = table(header.packet.facts, "plan")
        except ValueError as error:
            raise WireError(f"a message tells no run's config: {error}") from error
        asked = Plan.from_facts(header.packet.address.run, plan)
        if self._part is None or self._part.plan.key != asked.key:
            ground = None if self._part is None else self._part.ground
            if self._part is None or self._part.plan.run != asked.run:
                self._delta = None
            self._part = Part(self._client, asked, self._folder, ground, self._device)
        return self._part


def _failed(asked: Address, reason: str, *, private: bool = False) -> Packet:
    reason = cut_short(reason, _REASON)
    return outcome_packet(Failure(asked.job, asked.client, reason, private=private), asked)
