"""What clients score on their own held-out parts, many in one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from flexlora.adapters import Adapter, payload_adapter
from flexlora.engines.attempts import attempt_all
from flexlora.engines.jobs import Evaluate, Failure, Outcome, Scored, Train
from flexlora.engines.memories import Memories
from flexlora.evaluation import (
    ClientScore,
    EvalClient,
    EvalSettings,
    evaluate,
    evaluate_each,
)
from flexlora.evaluation.rows import grouped
from flexlora.formats.payloads import from_bytes
from flexlora.lowrank import LowRank
from flexlora.models import AdaptedModel
from flexlora.rules import Memory, Rule
from flexlora.rules.promises import require_received
from flexlora.tasks.prompts import Encoded

_ENOUGH = 512  # Prompts' tokens of one client, from which on a CPU is busy with it alone.


class OwnScores:
    """held_out: client id → its examples; settings: how, but for the metrics, which jobs name.

    rule, memories: what makes of the adapter that is sent the one that this client would use.

    Clients that cannot be scored together, for want of memory or because one of them fails, are
    scored one by one, so that a failure is one client's alone.
    """

    def __init__(
        self,
        model: AdaptedModel,
        held_out: Mapping[str, Sequence[Encoded]],
        settings: EvalSettings,
        rule: Rule,
        memories: Memories | None = None,
    ) -> None:
        self._rule = rule
        self._memories = memories
        self._model = model
        self._held_out = held_out
        self._settings = settings

    def of_sent(self, jobs: Iterable[Evaluate]) -> Iterator[Outcome]:
        """Each client's score of W₀ + what it was sent; the same bytes are scored together.

        But for clients that remember something: what they make of the same bytes is their own.
        """
        alone = self._memories is not None

        def alike(job: Evaluate) -> object:
            return job.payload, job.metrics, job.client if alone else ""

        for group in grouped(jobs, alike).values():
            some = [job for job in group if self._held_out.get(job.client)]
            for job in group:
                if job not in some:
                    yield Failure(job.id, job.client, "it has no held-out examples to score")
            memory = self._remembered(group[0])
            for job, score in attempt_all(some, partial(self._score_sent, memory)).items():
                if isinstance(score, Failure):
                    yield score
                else:
                    yield Scored(job.id, job.client, score)

    def of_trained(
        self, trained: Mapping[Train, tuple[Adapter, Adapter]]
    ) -> dict[Train, ClientScore | Failure]:
        """Each client's score of what it has in hand after its training, W₀ + Δ + trained − origin.

        trained: job → (what it began from, and trained), all for the Δ that the model stands on.
        Jobs that ask for no metric, and clients without held-out examples, have no score. Whose
        prompts are enough for a pass of their own is scored alone, with its update merged: past
        that a CPU is no faster with more rows, and each row costs a branch.
        """
        wanted = [job for job in trained if job.metrics and self._held_out.get(job.client)]

        def score(jobs: Sequence[Train]) -> Iterable[ClientScore]:
            updates = [_update(job, *trained[job]) for job in jobs]
            if self._fills_a_pass(jobs[0]):
                return self._score_with(_together(jobs[0].delta.layers, updates[0]), jobs)
            self._model.set_delta(jobs[0].delta.layers)
            return evaluate_each(
                self._model, self._clients(jobs), updates, self._settings_of(jobs[0])
            ).clients

        def together(job: Train) -> object:
            return job.metrics, job.client if self._fills_a_pass(job) else None

        scores: dict[Train, ClientScore | Failure] = {}
        for group in grouped(wanted, together).values():
            scores |= attempt_all(group, score)
        return scores

    def _remembered(self, job: Evaluate) -> Memory:
        return {} if self._memories is None else self._memories.read(job.client, job.answered)

    def _score_sent(self, memory: Memory, jobs: Sequence[Evaluate]) -> Iterable[ClientScore]:
        sent = payload_adapter(from_bytes(jobs[0].payload))
        received = self._rule.receive(sent, memory)
        require_received(self._rule, received, sent, jobs[0].client)
        return self._score_with({name: f.product() for name, f in received.items()}, jobs)

    def _score_with(
        self, update: Mapping[str, LowRank], jobs: Sequence[Train | Evaluate]
    ) -> Iterable[ClientScore]:
        """All on W₀ + update, on which the model is left."""
        self._model.set_delta(update)
        return evaluate(self._model, self._clients(jobs), self._settings_of(jobs[0])).clients

    def _fills_a_pass(self, job: Train | Evaluate) -> bool:
        tokens = sum(len(x.prompt) for x in self._held_out[job.client])
        return self._model.device.type == "cpu" and tokens >= _ENOUGH

    def _clients(self, jobs: Sequence[Train | Evaluate]) -> list[EvalClient]:
        return [EvalClient(job.client, tuple(self._held_out[job.client])) for job in jobs]

    def _settings_of(self, job: Train | Evaluate) -> EvalSettings:
        return replace(self._settings, metrics=job.metrics)


def _update(job: Train, sent: Adapter, trained: Adapter) -> dict[str, LowRank]:
    update = {name: factors.product() for name, factors in trained.items()}
    if job.origin:
        update = {name: part - sent[name].product() for name, part in update.items()}
    return update


def _together(delta: Mapping[str, LowRank], update: Mapping[str, LowRank]) -> dict[str, LowRank]:
    whole = dict(update)
    for name, part in delta.items():
        whole[name] = part + whole[name] if name in whole else part
    return whole
