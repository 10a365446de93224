"""A round's replies, one by one: each answers an open job and passes the guard, or is a failure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from flexlora.adapters import Adapter, norm_of_update, reach
from flexlora.engines.jobs import Failure, Outcome, Reply, Scored, Spare, Train, TrainSparse
from flexlora.errors import AdapterError
from flexlora.federation.guard import checked
from flexlora.federation.outcomes import LARGEST, NOTHING, Known, opened, why
from flexlora.rules import Rule, Summary

# What a collector does with a good reply: the number of its job, the reply, its adapter.
Keep = Callable[[int, Reply, Adapter], None]
A = TypeVar("A", Train, TrainSparse)
T = TypeVar("T")


@dataclass
class Collected:
    """What a round brought: good replies by client, without what they trained; and failures.

    sizes: of what the rule adds up of each, which is held against the others'; spare: clients whose
    answers were needed no more.
    """

    replies: dict[str, Reply] = field(default_factory=dict)
    summaries: dict[str, Summary] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)
    ranks: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    spare: list[str] = field(default_factory=list)
    bytes_up: int = 0

    def take(self, reply: Reply, norm: float, rank: float, size: float | None = None) -> None:
        """A good reply, the norm of its update, the mean rank of its client, and its size: that
        norm by default."""
        self.sizes[reply.client] = norm if size is None else size
        self.replies[reply.client] = replace(reply, payload=b"")
        self.summaries[reply.client] = Summary(reply.client, reply.examples, norm, rank)

    def leave_out(self, failure: Failure) -> None:
        """Take a good reply for a failure after all."""
        self._forget(failure.client)
        self.failures.append(failure)

    def pass_over(self, client: str) -> None:
        """Take a good reply for one that is needed no more."""
        self._forget(client)
        self.spare.append(client)

    def _forget(self, client: str) -> None:
        for held in (self.replies, self.summaries, self.sizes, self.ranks):
            held.pop(client, None)


def admitted(
    jobs: Sequence[Train],
    replies: Iterable[Outcome],
    sent: Mapping[str, Adapter],
    rule: Rule,
    keep: Keep,
    known: Known = NOTHING,
) -> Iterator[tuple[Reply | Failure, Collected]]:
    """`answered`, by adapters that are trained forms of what was sent.

    `sent`: client → the adapter it was sent. A good one is handed to `keep`, a side that it does
    not carry filled from what was sent if it is that still, and then forgotten.
    """
    patterns: dict[tuple[tuple[str, int], ...], dict[str, int]] = {}
    collected = Collected()

    def check(job: Train, reply: Reply) -> tuple[Adapter, float, float]:
        given, returned = sent[job.client], rule.returns(job.round)
        adapter = checked(
            reply,
            given,
            prunes=rule.traits.prunes,
            sides=returned,
            metrics=job.metrics,
        )
        if returned != "both" and rule.leaves_the_rest(job.round):
            adapter = adapter.filled(given)
        norm = update_norm(adapter, given, origin=rule.traits.origin)
        if rule.traits.compares == "product":
            return adapter, norm, norm
        return adapter, norm, total_norm([norm, reach(adapter, given)])

    def take(index: int, reply: Reply, found: tuple[Adapter, float, float]) -> None:
        adapter, norm, size = found
        keep(index, reply, adapter)
        collected.take(reply, norm, sum(adapter.ranks.values()) / len(adapter), size)
        ranks = patterns.setdefault(tuple(adapter.ranks.items()), adapter.ranks)
        collected.ranks[reply.client] = ranks

    alone = rule.traits.alone
    return answered(jobs, replies, collected, check, take, known, counted=not alone)


def answered(
    jobs: Sequence[A],
    replies: Iterable[Outcome],
    collected: Collected,
    check: Callable[[A, Reply], T],
    take: Callable[[int, Reply, T], None],
    known: Known = NOTHING,
    *,
    counted: bool = True,
) -> Iterator[tuple[Reply | Failure, Collected]]:
    """Yield after every reply what has come so far; at the end, missing jobs are failures.

    A second reply to a job, or one to no job of this round, is a failure too and changes nothing,
    and so is all that `opened` finds fault with, or `check` by raising, in whatever way. What it
    makes of a good one, `take` is given with the number of its job. Who is `Spare` is noted, not
    yielded. counted: whether bytes of replies count.
    """
    names = {name for job in jobs for name in (job.id, job.client)}
    open_jobs = {job.id: (index, job) for index, job in enumerate(jobs)}
    for given in replies:
        if isinstance(given, Spare):
            open_jobs.pop(given.job, None)
            collected.spare.append(given.client)
            continue
        reply = opened(given, known, names)
        index, job = open_jobs.get(reply.job, (-1, None))
        outcome: Reply | Failure
        if job is None or job.client != reply.client or isinstance(reply, Scored | Spare):
            reason = f"a reply to job {reply.job!r}, which is not open for this client"
            outcome = Failure(reply.job, reply.client, reason, "stray")
        else:
            del open_jobs[job.id]
            outcome = reply
            if isinstance(reply, Reply):
                collected.bytes_up += len(reply.payload) if counted else 0
                try:
                    found = check(job, reply)
                except Exception as error:  # A stranger's bytes did it: they end no federation.
                    outcome = Failure(job.id, job.client, why(error), "quarantine")
                else:
                    take(index, reply, found)
        if isinstance(outcome, Failure):
            collected.failures.append(outcome)
        yield outcome, collected
    for _, job in open_jobs.values():
        lost = Failure(job.id, job.client, "no reply")
        collected.failures.append(lost)
        yield lost, collected


def update_norm(adapter: Adapter, sent: Adapter, *, origin: bool) -> float:
    """`norm_of_update`. Raises AdapterError for one whose square float32 does not hold."""
    return _held(norm_of_update(adapter, sent, origin=origin))


def total_norm(norms: Iterable[float]) -> float:
    """That of all of them together. Raises AdapterError as `update_norm`."""
    return _held(math.sqrt(sum(norm**2 for norm in norms)))


def _held(norm: float) -> float:
    if not norm <= math.sqrt(LARGEST):
        raise AdapterError(
            f"the update has norm {norm:g}, expected at most {math.sqrt(LARGEST):.2g}, whose "
            "square float32 can hold"
        )
    return norm
