"""The engine inside one process: clients train one after another on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from flexlora.adapters import Adapter, factors_payload, payload_adapter
from flexlora.errors import FlexLoRAError
from flexlora.evaluation import ClientScore, EvalClient, EvalSettings, evaluate
from flexlora.federation.jobs import Failure, Job, Outcome, Reply, Scored
from flexlora.formats.payloads import from_bytes, to_bytes
from flexlora.lowrank import LowRank
from flexlora.models import AdaptedModel
from flexlora.rules import Rule
from flexlora.tasks.prompts import Encoded
from flexlora.training import train


class InProcess:
    """Does every job here, on the client's own data (client id → encoded examples).

    held_out: client id → what it scores on; a client without has nothing to score. settings: how,
    but for the metrics, which every job names.

    What is sent and what comes back passes through its serialised form, as it would on a network.
    A client whose training fails, or runs out of memory, is a `Failure` with the reason.
    """

    def __init__(
        self,
        model: AdaptedModel,
        data: Mapping[str, Sequence[Encoded]],
        rule: Rule,
        held_out: Mapping[str, Sequence[Encoded]] | None = None,
        settings: EvalSettings | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.rule = rule
        self.held_out = held_out or {}
        self.settings = settings or EvalSettings()
        self._does: dict[str, Callable[[Job], Outcome]] = {
            "train": self._train,
            "evaluate": self._evaluate,
        }

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            try:
                yield self._does[job.kind](job)
            except (FlexLoRAError, RuntimeError, MemoryError) as error:
                if isinstance(error, RuntimeError) and not _out_of_memory(error):
                    raise
                yield Failure(job.id, job.client, str(error) or type(error).__name__)

    def _train(self, job: Job) -> Reply:
        start = time.perf_counter()
        data = self.data.get(job.client, ())
        sent = payload_adapter(from_bytes(job.payload, limit_bytes=len(job.payload)))
        self.model.set_delta(job.delta.layers)
        generator = torch.Generator().manual_seed(job.seed)
        trained = train(
            self.model,
            sent,
            data,
            job.recipe,
            generator,
            origin=job.origin,
            penalty=self.rule.penalty,
        )
        returned = self.rule.encode(trained.adapter, sent)
        return Reply(
            job=job.id,
            client=job.client,
            payload=to_bytes(factors_payload(returned)),
            examples=trained.examples,
            loss=trained.loss,
            steps=trained.steps,
            tokens=trained.tokens,
            seconds=time.perf_counter() - start,
            score=self._score_trained(job, sent, trained.adapter) if job.metrics else None,
        )

    def _evaluate(self, job: Job) -> Outcome:
        adapter = payload_adapter(from_bytes(job.payload, limit_bytes=len(job.payload)))
        score = self._score(job, {name: factors.product() for name, factors in adapter.items()})
        if score is None:
            return Failure(job.id, job.client, "it has no held-out examples to score")
        return Scored(job.id, job.client, score)

    def _score_trained(self, job: Job, sent: Adapter, trained: Adapter) -> ClientScore | None:
        """Of W₀ + Δ + trained − origin: what the client has in hand after its training."""
        update = {name: factors.product() for name, factors in trained.items()}
        if job.origin:
            update = {name: matrix - sent[name].product() for name, matrix in update.items()}
        return self._score(job, update)

    def _score(self, job: Job, update: Mapping[str, LowRank]) -> ClientScore | None:
        examples = tuple(self.held_out.get(job.client, ()))
        if not examples:
            return None
        held = job.delta.layers
        self.model.set_delta(
            {name: held[name] + part if name in held else part for name, part in update.items()}
        )
        settings = replace(self.settings, metrics=job.metrics)
        return evaluate(self.model, [EvalClient(job.client, examples)], settings).clients[0]


def _out_of_memory(error: RuntimeError) -> bool:
    """True on any device: on the CPU torch raises a plain RuntimeError that names its allocator."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
