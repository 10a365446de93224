"""A round's replies become contributions, one layer at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from flexlora.adapters import Adapter, Factors
from flexlora.engines.jobs import Failure, Outcome, Reply, Scored, Train
from flexlora.errors import AdapterError
from flexlora.federation.guard import checked
from flexlora.federation.spool import Spool
from flexlora.rules import Contribution, Rule, Summary


@dataclass
class Collected:
    """What a round brought: good replies by client, spooled; failures with their reasons."""

    replies: dict[str, Reply] = field(default_factory=dict)
    summaries: dict[str, Summary] = field(default_factory=dict)
    ranks: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    bytes_up: int = 0


class Plain:
    """Guards each reply and spools it to `folder`; reads contributions back layer by layer.

    Memory is one reply while collecting and one layer of all replies while combining. Spooled
    files are numbered by the server's own job order: nothing that a client names becomes a path.
    """

    def __init__(self, folder: Path, rule: Rule) -> None:
        self.folder = folder
        self.rule = rule
        self._spool = Spool(folder)
        self._numbers: dict[str, int] = {}
        self._ranks: dict[str, dict[str, int]] = {}
        self._patterns: dict[tuple[tuple[str, int], ...], dict[str, int]] = {}

    def collect(
        self,
        jobs: Sequence[Train],
        replies: Iterable[Outcome],
        sent: Mapping[str, Adapter],
    ) -> Iterator[tuple[Reply | Failure, Collected]]:
        """Yield after every reply what has come so far; at the end, missing jobs are failures.

        `sent`: client → the adapter it was sent. A second reply to a job, or one to no job of this
        round, is a failure too and changes nothing.
        """
        self.clear()
        self.folder.mkdir(parents=True)
        open_jobs = {job.id: (index, job) for index, job in enumerate(jobs)}
        collected = Collected()
        for reply in replies:
            index, job = open_jobs.get(reply.job, (-1, None))
            if job is None or job.client != reply.client or isinstance(reply, Scored):
                reason = f"a reply to job {reply.job!r}, which is not open for this client"
                outcome: Reply | Failure = Failure(reply.job, reply.client, reason)
            else:
                del open_jobs[job.id]
                outcome = reply
                if isinstance(reply, Reply):
                    collected.bytes_up += len(reply.payload)
                    outcome = self._keep(index, job, reply, sent[job.client], collected)
            if isinstance(outcome, Failure):
                collected.failures.append(outcome)
            yield outcome, collected
        for _, job in open_jobs.values():
            lost = Failure(job.id, job.client, "no reply")
            collected.failures.append(lost)
            yield lost, collected

    def contributions(
        self,
        layer: str,
        weights: Mapping[str, float],
        sent: Mapping[str, Adapter],
    ) -> list[Contribution]:
        """This layer's contributions, in order of client id; each is read when it is asked for."""

        def read(client: str) -> Factors:
            number, scale = self._numbers[client], sent[client][layer].scale
            b, a = self._spool.tensors(number, (f"{layer}.b", f"{layer}.a"))
            return Factors(b, a, scale)

        return [
            Contribution(
                client,
                weights[client],
                self._ranks[client][layer],
                partial(read, client),
                sent[client][layer] if self.rule.origin else None,
            )
            for client in sorted(weights)
        ]

    def clear(self) -> None:
        """Remove the spool, of this round or of one that was cut short."""
        self._numbers.clear()
        self._ranks.clear()
        self._patterns.clear()
        self._spool.clear()

    def _keep(
        self, index: int, job: Train, reply: Reply, sent: Adapter, collected: Collected
    ) -> Reply | Failure:
        try:
            adapter = checked(reply, sent, prunes=self.rule.traits.prunes, metrics=job.metrics)
            norm = _update_norm(adapter, sent if self.rule.origin else None)
        except AdapterError as error:
            return Failure(job.id, job.client, str(error))
        self._spool.put(index, reply.payload)
        self._numbers[job.client] = index
        # Its bytes are on disk now; what is kept of it in memory is the rest.
        collected.replies[job.client] = replace(reply, payload=b"")
        collected.summaries[job.client] = Summary(job.client, reply.examples, norm)
        ranks = self._patterns.setdefault(tuple(adapter.ranks.items()), adapter.ranks)
        collected.ranks[job.client] = self._ranks[job.client] = ranks
        return reply


def _update_norm(adapter: Adapter, origin: Adapter | None) -> float:
    """‖update‖_F over all layers. Raises AdapterError where finite factors overflow in it."""
    if origin is None:
        norm = adapter.norm()
    else:
        steps = ((f.product() - origin[name].product()).norm() for name, f in adapter.items())
        norm = math.sqrt(sum(step**2 for step in steps))
    if not norm <= torch.finfo(torch.float32).max:
        raise AdapterError(f"the update has norm {norm:g}, expected one that float32 can hold")
    return norm
