"""A round's replies: clients are asked, and others again, until enough of them count."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, final

from flexlora.engines.jobs import Failure, Outcome, Reply, Spare, Train, TrainSparse, Transport
from flexlora.errors import RoundError, TooFewError
from flexlora.federation.admission import Collected
from flexlora.federation.asking import Asking
from flexlora.federation.observers import Observer
from flexlora.federation.quarantine import quarantined
from flexlora.federation.resting import Answers
from flexlora.federation.sampling import drawn
from flexlora.federation.screening import Passed
from flexlora.federation.sending import Sender
from flexlora.federation.stages import S, Stage
from flexlora.formats.words import count
from flexlora.rules import State
from flexlora.runs import events
from flexlora.runs.records import Simulated
from flexlora.runs.run_directory import Run
from flexlora.runs.store import ClientStore


@dataclass
class Tried:
    """Of all attempts at a round: who was asked, who did not count, what it cost.

    missing: by attempt, in order of client; simulated: on clients' devices, where they have any.
    """

    asked: set[str] = field(default_factory=set)
    missing: list[tuple[str, ...]] = field(default_factory=list)
    answers: list[Answers] = field(default_factory=list)
    bytes_down: int = 0
    bytes_up: int = 0
    simulated: Simulated | None = None

    def cost(self, asked: Sequence[Train | TrainSparse], up: int, took: Simulated | None) -> None:
        """Count one more attempt: one comes after the other, also on devices."""
        self.bytes_down += sum(job.bytes_down for job in asked)
        self.bytes_up += up
        before = 0.0 if self.simulated is None else self.simulated.seconds
        self.simulated = None if took is None else replace(took, seconds=before + took.seconds)


@dataclass(frozen=True, eq=False)
class Gathered(Generic[S]):
    """What the attempt that counts brought. answered: who gave what was asked for, also if it does
    not count; trained: when the last of it had come, on time's performance counter."""

    asked: S
    collected: Collected
    passed: Passed
    answered: list[str]
    trained: float
    tried: Tried


@final
class Gathering:
    """Asks a round's clients, and tries again with others where too few count.

    in_time: whether answers come in the order of time, so that a round is closed once enough are
    there; else all are waited for, and the first count: on their devices' clock, where they have
    devices, else in the order drawn.
    """

    def __init__(
        self,
        sender: Sender,
        transport: Transport,
        run: Run,
        observer: Observer,
        asking: Asking,
        *,
        in_time: bool = False,
    ) -> None:
        self._sender = sender
        self._schedule = sender.schedule
        self._transport = transport
        self._run = run
        self._observer = observer
        self._asking = asking
        self._in_time = in_time

    def gather(self, round: int, stage: Stage[S], state: State, store: ClientStore) -> Gathered[S]:
        """Raises RoundError where too few count in the last attempt, too, or are left of it for a
        screen. Of the store nothing is changed but the ranks of who has no memory for them, so that
        a round that is played again asks the same clients."""
        schedule, tried = self._schedule, Tried()
        while True:
            attempt = len(tried.missing) + 1
            order = drawn(self._sender.streams, schedule, store, round, attempt, tried.asked)
            asked = stage.send(state, store, self._run.checkpoints(), sorted(order), attempt)
            clients = tuple(job.client for job in asked.jobs)
            self._observer.told(events.RoundBegun(round, clients, stage.sparse, attempt))
            collected = self._collect(stage, state, asked, store)
            trained, answered = time.perf_counter(), list(collected.ranks)
            took = self._asking.seconds(stage, asked)
            first = sorted(order, key=lambda client: (took[client], client)) if took else order
            tried.answers.append(self._settle(round, asked.jobs, first, collected))
            simulated = self._asking.simulated(took, collected)
            needed = schedule.quorum(len(clients))
            came = len(collected.replies)
            passed, short = Passed({}), None
            if came >= needed:
                try:
                    passed = self._weigh(round, stage, state, asked, collected)
                except TooFewError as error:
                    short, needed = error, error.needed
            tried.asked |= set(clients)
            there = {*collected.replies, *collected.spare}
            tried.missing.append(tuple(x for x in clients if x not in there))
            tried.cost(asked.jobs, collected.bytes_up, simulated)
            if passed.weights:
                return Gathered(asked, collected, passed, answered, trained, tried)
            if attempt >= schedule.attempts:
                words = _too_few(round, attempt, came, needed, clients, collected)
                raise short or RoundError(words)
            left = len(collected.replies)  # By the screens, too.
            self._observer.told(events.Repeated(round, attempt, left, len(clients), needed))

    def _collect(self, stage: Stage[S], state: State, asked: S, store: ClientStore) -> Collected:
        collected, most = Collected(), self._schedule.clients
        closes = self._in_time and len(asked.jobs) > most
        answered: set[str] = set()

        def enough() -> bool:
            return closes and len(collected.replies) >= most

        came = self._asking.answers(self._transport, stage, state, store, asked)
        replies = until(enough, asked.jobs, answered, came)
        for outcome, so_far in stage.collect(asked, replies):
            collected = so_far
            answered.add(outcome.job)
            self._observer.told(self._came(state.round + 1, store, outcome))
        return collected

    def _came(self, round: int, store: ClientStore, outcome: Reply | Failure) -> events.Event:
        """What is told of an answer: never the update itself."""
        if isinstance(outcome, Failure):
            return events.Failed(round, outcome.client, outcome.reason, outcome.kind)
        return events.Replied(
            round=round,
            client=outcome.client,
            type=store.types[outcome.client],
            examples=outcome.examples,
            tokens=outcome.tokens,
            loss=outcome.loss,
            seconds=outcome.seconds,
            bytes_up=0 if self._sender.rule.traits.alone else len(outcome.payload),
            peak_bytes=outcome.peak_bytes,
            cohort=outcome.cohort,
        )

    def _settle(
        self,
        round: int,
        jobs: Sequence[Train | TrainSparse],
        order: Sequence[str],
        collected: Collected,
    ) -> Answers:
        """Leave in what was collected those who count: beside the others, and as many as are
        needed, the first in this order."""
        ids = {job.client: job.id for job in jobs}
        for failure in quarantined(collected, ids, self._schedule.norm_limit):
            self._tell(round, failure, failure.kind)
        good = set(collected.replies)
        for client in [x for x in order if x in good][self._schedule.clients :]:
            collected.pass_over(client)
        for client in collected.spare:
            self._observer.told(events.Spare(round, client))
        bad = {x.client for x in collected.failures if x.kind != "stray"} & ids.keys()
        return Answers(good, bad - good)

    def _weigh(
        self, round: int, stage: Stage[S], state: State, asked: S, collected: Collected
    ) -> Passed:
        """Who passes with what weight; whom a screen leaves out is a failure of this round."""
        passed = stage.weigh(state, asked, collected)
        jobs = {job.client: job.id for job in asked.jobs}
        for client, reason in passed.left_out.items():
            failure = Failure(jobs[client], client, reason)
            collected.leave_out(failure)
            self._tell(round, failure, "screen")
        return passed

    def _tell(self, round: int, failure: Failure, kind: str) -> None:
        self._observer.told(events.Failed(round, failure.client, failure.reason, kind))


def until(
    enough: Callable[[], bool],
    jobs: Sequence[Train | TrainSparse],
    answered: set[str],
    outcomes: Iterator[Outcome],
) -> Iterator[Outcome]:
    """The outcomes as they come, until there are enough; then who has not answered is late.

    answered: ids of jobs, filled by who reads these. What answers later is the engine's to drop.
    """
    for outcome in outcomes:
        yield outcome
        if enough():
            if isinstance(outcomes, Generator):
                outcomes.close()
            for job in jobs:
                if job.id not in answered:
                    yield Spare(job.id, job.client)
            return


def _too_few(
    round: int,
    attempt: int,
    came: int,
    needed: int,
    clients: Sequence[str],
    collected: Collected,
) -> str:
    where = f"round {round}" if attempt == 1 else f"round {round}, attempt {attempt}"
    if came >= needed:
        return f"{where}: the screens left no client; loosen [screens]"
    words = f"{where}: {came or 'none'} of {count(len(clients), 'client')} gave a usable reply"
    if needed > 1:
        words += f", expected {needed} by federation.min_clients and min_share"
    own = [x for x in collected.failures if x.kind != "stray"] or collected.failures
    if own:
        reason = " ".join(own[0].reason.split())  # One line, whatever a client wrote.
        words += f"; the first reason, of client {own[0].client}: {reason}"
    if needed > 1:
        words += (
            "; what is committed stays: resume the run when more are there, or continue it with a "
            "lower quorum or more federation.attempts"
        )
    return words
