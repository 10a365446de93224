"""A round's replies, one by one: each answers an open job and passes the guard, or is a failure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flexlora.adapters import Adapter, norm_of_update
from flexlora.engines.jobs import Failure, Outcome, Reply, Scored, Train
from flexlora.errors import AdapterError
from flexlora.federation.guard import checked
from flexlora.federation.outcomes import LARGEST, NOTHING, Known, opened, why
from flexlora.rules import Rule, Summary

# What a collector does with a good reply: the number of its job, the reply, its adapter.
Keep = Callable[[int, Reply, Adapter], None]


@dataclass
class Collected:
    """What a round brought: good replies by client, without what they trained; and failures."""

    replies: dict[str, Reply] = field(default_factory=dict)
    summaries: dict[str, Summary] = field(default_factory=dict)
    ranks: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    bytes_up: int = 0

    def leave_out(self, failure: Failure) -> None:
        """Take a good reply for a failure after all."""
        for held in (self.replies, self.summaries, self.ranks):
            held.pop(failure.client, None)
        self.failures.append(failure)


def admitted(
    jobs: Sequence[Train],
    replies: Iterable[Outcome],
    sent: Mapping[str, Adapter],
    rule: Rule,
    keep: Keep,
    known: Known = NOTHING,
) -> Iterator[tuple[Reply | Failure, Collected]]:
    """Yield after every reply what has come so far; at the end, missing jobs are failures.

    `sent`: client → the adapter it was sent. A second reply to a job, or one to no job of this
    round, is a failure too and changes nothing, and so is all that `opened` or the guard finds
    fault with, in whatever way. A good one is handed to `keep`, a side that it does not carry
    filled from what was sent if it is that still, and then forgotten.
    """
    names = {name for job in jobs for name in (job.id, job.client)}
    open_jobs = {job.id: (index, job) for index, job in enumerate(jobs)}
    patterns: dict[tuple[tuple[str, int], ...], dict[str, int]] = {}
    collected = Collected()

    def admit(index: int, job: Train, reply: Reply) -> Reply | Failure:
        given, returned = sent[job.client], rule.returns(job.round)
        try:
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
        except Exception as error:  # A stranger's bytes did it: they end no federation.
            return Failure(job.id, job.client, why(error))
        keep(index, reply, adapter)
        collected.replies[job.client] = replace(reply, payload=b"")
        mean_rank = sum(adapter.ranks.values()) / len(adapter)
        collected.summaries[job.client] = Summary(job.client, reply.examples, norm, mean_rank)
        ranks = patterns.setdefault(tuple(adapter.ranks.items()), adapter.ranks)
        collected.ranks[job.client] = ranks
        return reply

    for given in replies:
        reply = opened(given, known, names)
        index, job = open_jobs.get(reply.job, (-1, None))
        if job is None or job.client != reply.client or isinstance(reply, Scored):
            reason = f"a reply to job {reply.job!r}, which is not open for this client"
            outcome: Reply | Failure = Failure(reply.job, reply.client, reason)
        else:
            del open_jobs[job.id]
            outcome = reply
            if isinstance(reply, Reply):
                collected.bytes_up += 0 if rule.traits.alone else len(reply.payload)
                outcome = admit(index, job, reply)
        if isinstance(outcome, Failure):
            collected.failures.append(outcome)
        yield outcome, collected
    for _, job in open_jobs.values():
        lost = Failure(job.id, job.client, "no reply")
        collected.failures.append(lost)
        yield lost, collected


def update_norm(adapter: Adapter, sent: Adapter, *, origin: bool) -> float:
    """`norm_of_update`. Raises AdapterError for one whose square float32 does not hold."""
    norm = norm_of_update(adapter, sent, origin=origin)
    if not norm <= math.sqrt(LARGEST):
        raise AdapterError(
            f"the update has norm {norm:g}, expected at most {math.sqrt(LARGEST):.2g}, whose "
            "square float32 can hold"
        )
    return norm
