"""The engine inside one process: clients train one after another on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import torch

from flexlora.adapters import factors_payload, payload_adapter
from flexlora.errors import FlexLoRAError
from flexlora.federation.jobs import Failure, Job, Reply
from flexlora.formats.payloads import from_bytes, to_bytes
from flexlora.models import AdaptedModel
from flexlora.rules import Rule
from flexlora.tasks.prompts import Encoded
from flexlora.training import train


class InProcess:
    """Trains every job's client here, on its own data (client id → encoded examples).

    What is sent and what comes back passes through its serialised form, as it would on a network.
    A client whose training fails, or runs out of memory, is a `Failure` with the reason.
    """

    def __init__(
        self, model: AdaptedModel, data: Mapping[str, Sequence[Encoded]], rule: Rule
    ) -> None:
        self.model = model
        self.data = data
        self.rule = rule

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Reply | Failure]:
        for job in jobs:
            try:
                yield self._work(job)
            except (FlexLoRAError, RuntimeError, MemoryError) as error:
                if isinstance(error, RuntimeError) and not _out_of_memory(error):
                    raise
                yield Failure(job.id, job.client, str(error) or type(error).__name__)

    def _work(self, job: Job) -> Reply:
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
        )


def _out_of_memory(error: RuntimeError) -> bool:
    """True on any device: on the CPU torch raises a plain RuntimeError that names its allocator."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
