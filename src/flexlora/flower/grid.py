"""The engine whose clients are on other machines: jobs go to their nodes, answers as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from flexlora.engines.jobs import Failure, Job, Outcome, Reply
from flexlora.errors import WireError, seen
from flexlora.flower.carrier import Carrier, Parcel
from flexlora.flower.chunks import SIZE
from flexlora.flower.jobs import Behind, job_packet
from flexlora.flower.nodes import Link, Lost, fresh_ask
from flexlora.flower.outcomes import packet_outcome
from flexlora.flower.packets import Packet
from flexlora.flower.plan import Plan
from flexlora.flower.register import Register

_SLACK = 1 << 20  # Bytes of a reply beyond its adapter.
_LATER = 60.0  # Seconds after the deadline for which the network keeps a message.
_TRIES = 2  # Times that a client may ask for more of Δ than it was sent.


@dataclass(eq=False)
class _Open:
    """A job on its way. held: the Δ that it was sent for; tries: before; sent: when."""

    job: Job
    parcel: Parcel
    held: int | None
    tries: int
    sent: float


@final
class Grid:
    """Sends every job to its client's node and yields what comes back, one answer at a time.

    deadline: seconds after which an exchange is over: whoever has not answered is a `Failure`, and
    what it sends later is thrown away. folder: for answers that come in chunks. noted: is told who
    went, came back, or was late.
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
        folder: Path,
        poll: float = 0.25,
        noted: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chunk: int = SIZE,
    ) -> None:
        self._carrier = Carrier(link, folder, chunk)
        self._register = register
        self._plan = plan
        self._deadline = deadline
        self._poll = poll
        self._clock = clock
        self._sleep = sleep
        self._held: dict[str, int | None] = {}  # Client → the version of Δ that it holds.
        self._late: list[_Open] = []
        self._fastest: float | None = None  # Seconds from a job to its answer.
        self._noted = noted
        register.noted = noted

    def close(self) -> None:
        """Nothing outlives an exchange: clients serve the next run."""
        self._carrier.close()

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        began = self._clock()
        waiting, open = list(jobs), list[_Open]()
        self._register.look(anew=True)
        self._throw_away_late()
        try:
            while waiting or open:
                self._register.look()
                waiting = self._send(waiting, open, began)
                for one in list(open):
                    outcome = self._answer(one, open, waiting, began)
                    if outcome is not None:
                        yield outcome
                if self._clock() - began >= self._deadline:
                    break
                if waiting and not open and not self._hopeful(waiting):
                    break
                if waiting or open:
                    self._throw_away_late()
                    self._sleep(self._poll)
            for job in waiting:
                yield Failure(job.id, job.client, "its node is not connected")
            for one in open:
                told = f"no answer in {self._deadline:g} s, the deadline; {self._known()}"
                yield Failure(one.job.id, one.job.client, told)
        finally:
            self._late += open

    def _send(self, jobs: Sequence[Job], open: list[_Open], began: float) -> list[Job]:
        """Send those whose clients are here; the others."""
        left = []
        for job in jobs:
            node = self._register.node(job.client)
            if node is None or not self._push(job, node, open, began, 0):
                left.append(job)
        return left

    def _push(self, job: Job, node: int, open: list[_Open], began: float, tries: int) -> bool:
        if job.client not in self._held:
            self._held[job.client] = self._register.seats[job.client].described.held
        held = self._held[job.client]
        packet = job_packet(job, self._plan.run, fresh_ask(), held)
        facts = {**packet.facts, "plan": self._plan.to_facts()}
        packet = Packet(packet.kind, packet.address, packet.parts, facts)
        parcel = self._carrier.push(node, packet, self._left(began))
        if parcel is None:
            return False
        open.append(_Open(job, parcel, held, tries, self._clock()))
        return True

    def _hopeful(self, waiting: Sequence[Job]) -> bool:
        """Whether one of those that were not sent may be soon: its node is here, or may be."""
        here = any(self._register.node(job.client) is not None for job in waiting)
        return here or self._register.asking > 0

    def _left(self, began: float) -> float:
        """Seconds for which the network keeps a message that is sent now."""
        return max(0.0, self._deadline - (self._clock() - began)) + _LATER

    def _answer(
        self, one: _Open, open: list[_Open], waiting: list[Job], began: float
    ) -> Outcome | None:
        """What came of this job, if anything that ends it."""
        job = one.job
        try:
            limit = 4 * len(job.payload) + _SLACK
            found = self._carrier.pull(one.parcel, limit, self._left(began))
            if found is None:
                if self._register.node(job.client) != one.parcel.node:  # Gone, or back anew.
                    open.remove(one)
                    self._late.append(one)
                    waiting.append(job)
                return None
            open.remove(one)
            if isinstance(found, Lost):
                return Failure(job.id, job.client, found.reason)
            outcome = packet_outcome(
                Packet(found.kind, one.parcel.asked, found.parts, found.facts, found.version)
            )
        except WireError as error:
            if one in open:
                open.remove(one)
                self._carrier.forget(one.parcel)
            return Failure(job.id, job.client, str(error), "quarantine")
        if not isinstance(outcome, Behind):
            took = self._time(one)
            self._note(job)
            return self._travelled(outcome, took) if isinstance(outcome, Reply) else outcome
        self._held[job.client] = outcome.held
        if one.tries >= _TRIES:
            return Failure(job.id, job.client, f"it does not come to hold Δ (holds {outcome.held})")
        if not self._push(job, one.parcel.node, open, began, one.tries + 1):
            waiting.append(job)
        return None

    def _note(self, job: Job) -> None:
        """Whoever answered a job to train has the Δ that it was sent, whatever else it says."""
        delta = getattr(job, "delta", None)
        if delta is not None:
            self._held[job.client] = delta.version

    def _travelled(self, reply: Reply, took: float) -> Reply:
        """With what the server itself knows of its way."""
        worked = reply.seconds if 0.0 <= reply.seconds <= took else 0.0
        back = reply.client in self._register.back
        self._register.back.discard(reply.client)
        return replace(reply, wire_seconds=took - worked, back=back)

    def _time(self, one: _Open) -> float:
        """Seconds that the job took, from here to here."""
        took = self._clock() - one.sent
        self._fastest = took if self._fastest is None else min(took, self._fastest)
        return took

    def _known(self) -> str:
        """How long answers take, for whoever sets the deadline."""
        if self._fastest is None:
            return "nobody has answered a job yet; raise deadline"
        return f"the fastest answer so far took {self._fastest:.1f} s"

    def _throw_away_late(self) -> None:
        """What comes too late is fetched, so that the network holds it no longer, and dropped."""
        self._carrier.tidy()
        for one in list(self._late):
            answered = self._carrier.dropped(one.parcel)
            if answered is None:
                continue
            self._late.remove(one)
            if answered:
                self._time(one)
                words = f"job {one.job.id} came too late and was thrown away"
                self._noted(f"the answer of client {seen(one.job.client)} to {words}")
