"""The engine whose clients are on other machines: jobs go to their nodes, answers as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from flexlora.engines.jobs import Failure, Job, Outcome
from flexlora.errors import WireError, seen
from flexlora.flower.jobs import Behind, job_packet
from flexlora.flower.nodes import Came, Link, Lost, fresh_ask
from flexlora.flower.outcomes import packet_outcome
from flexlora.flower.packets import (
    Address,
    Packet,
    packed,
    read_header,
    require_address,
    require_size,
    unpacked,
)
from flexlora.flower.plan import Plan
from flexlora.flower.register import Register
from flexlora.flower.trainer import NOBODY

_SLACK = 1 << 20  # Bytes of a reply beyond its adapter.
_LATER = 60.0  # Seconds after the deadline for which the network keeps a message.
_TRIES = 2  # Times that a client may ask for more of Δ than it was sent.


@dataclass
class _Open:
    """A job that has been sent, in this message. held: the Δ that was sent for; tries: before."""

    job: Job
    node: int
    asked: Address
    held: int | None
    tries: int


@final
class Grid:
    """Sends every job to its client's node and yields what comes back, one answer at a time.

    deadline: seconds after which an exchange is over: whoever has not answered is a `Failure`, and
    what it sends later is thrown away. noted: is told who went, came back, or was late.
    A client that is away is waited for while others are at work, and so is one whose node goes
    before it has answered: it is asked again at the next node of its name. An error of the network
    is counted once. Answers are held to run, round, job, client and message before their bytes are
    looked at, and to a size that no honest one has.
    """

    def __init__(
        self,
        link: Link,
        register: Register,
        plan: Plan,
        *,
        deadline: float,
        poll: float = 0.25,
        noted: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._link = link
        self._register = register
        self._plan = plan
        self._deadline = deadline
        self._poll = poll
        self._clock = clock
        self._sleep = sleep
        self._held: dict[str, int | None] = {}  # Client → the version of Δ that it holds.
        self._late: dict[str, Job] = {}
        self._sent: dict[str, float] = {}
        self._fastest: float | None = None  # Seconds from a job to its answer.
        self._noted = noted
        register.noted = noted

    def close(self) -> None:
        """Nothing outlives an exchange: clients serve the next run."""

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        began = self._clock()
        waiting, open = list(jobs), dict[str, _Open]()
        self._register.look(anew=True)
        self._throw_away_late()
        try:
            while waiting or open:
                self._register.look()
                waiting = self._send(waiting, open, began)
                for message in list(open):
                    outcome = self._answer(message, open, waiting, began)
                    if outcome is not None:
                        yield outcome
                if self._clock() - began >= self._deadline:
                    break
                if waiting and not open and not self._register.asking:
                    break
                if waiting or open:
                    self._throw_away_late()
                    self._sleep(self._poll)
            for job in waiting:
                yield Failure(job.id, job.client, "its node is not connected")
            for one in open.values():
                told = f"no answer in {self._deadline:g} s, the deadline; {self._known()}"
                yield Failure(one.job.id, one.job.client, told)
        finally:
            self._late |= {message: one.job for message, one in open.items()}

    def _send(self, jobs: Sequence[Job], open: dict[str, _Open], began: float) -> list[Job]:
        """Send those whose clients are here; the others."""
        left = []
        for job in jobs:
            node = self._register.node(job.client)
            if node is None or not self._push(job, node, open, began, 0):
                left.append(job)
        return left

    def _push(self, job: Job, node: int, open: dict[str, _Open], began: float, tries: int) -> bool:
        if job.client not in self._held:
            self._held[job.client] = self._register.seats[job.client].described.held
        held = self._held[job.client]
        packet = job_packet(job, self._plan.run, fresh_ask(), held)
        facts = {**packet.facts, "plan": self._plan.to_facts()}
        header, body = packed(Packet(packet.kind, packet.address, packet.parts, facts))
        left = max(0.0, self._deadline - (self._clock() - began))
        message = self._link.push(node, header, body, left + _LATER)
        if message is None:
            return False
        self._sent[message] = self._clock()
        open[message] = _Open(job, node, packet.address, held, tries)
        return True

    def _answer(
        self, message: str, open: dict[str, _Open], waiting: list[Job], began: float
    ) -> Outcome | None:
        """What came to this message, if anything that ends its job."""
        one = open[message]
        job = one.job
        found = self._link.pull(message)
        if found is None:
            if self._register.node(job.client) != one.node:  # It has gone, or come back anew.
                del open[message]
                self._late[message] = job
                waiting.append(job)
            return None
        del open[message]
        if isinstance(found, Lost):
            return Failure(job.id, job.client, found.reason)
        try:
            outcome = self._opened(one, found)
        except WireError as error:
            return Failure(job.id, job.client, str(error), "quarantine")
        if not isinstance(outcome, Behind):
            self._time(message)
            self._note(job, one)
            return outcome
        self._held[job.client] = outcome.held
        if one.tries >= _TRIES:
            return Failure(job.id, job.client, f"it does not come to hold Δ (holds {outcome.held})")
        if not self._push(job, one.node, open, began, one.tries + 1):
            waiting.append(job)
        return None

    def _note(self, job: Job, one: _Open) -> None:
        """Whoever answered a job to train has the Δ that it was sent, whatever else it says."""
        delta = getattr(job, "delta", None)
        if delta is not None:
            self._held[job.client] = delta.version

    def _time(self, message: str) -> None:
        took = self._clock() - self._sent.pop(message)
        self._fastest = took if self._fastest is None else min(took, self._fastest)

    def _known(self) -> str:
        """How long answers take, for whoever sets the deadline."""
        if self._fastest is None:
            return "nobody has answered a job yet; raise deadline"
        return f"the fastest answer so far took {self._fastest:.1f} s"

    def _opened(self, one: _Open, came: Came) -> Outcome | Behind:
        header = read_header(came.header)
        if header.packet.address != NOBODY:  # Of what it could not read, it only says why.
            require_address(header, one.asked)
        require_size(header, 4 * len(one.job.payload) + _SLACK)
        packet = unpacked(header, came.body)
        return packet_outcome(
            Packet(packet.kind, one.asked, packet.parts, packet.facts, packet.version)
        )

    def _throw_away_late(self) -> None:
        """What comes too late is fetched, so that the network holds it no longer, and dropped."""
        for message in list(self._late):
            found = self._link.pull(message)
            if found is None:
                continue
            job = self._late.pop(message)
            if isinstance(found, Came):
                self._time(message)
                words = f"job {job.id} came too late and was thrown away"
                self._noted(f"the answer of client {seen(job.client)} to {words}")
