"""Clients that train single weights of the base, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from torch import Tensor

from flexlora.adapters.sparse import payload_values, places, values_payload
from flexlora.engines.attempts import attempt
from flexlora.engines.cohorts import Examples
from flexlora.engines.jobs import Outcome, Reply, TrainSparse
from flexlora.formats.payloads import from_bytes, to_bytes
from flexlora.models import AdaptedModel
from flexlora.seeds import seeded
from flexlora.training import Lesson, train_weights
from flexlora.training.memory import Rise

At = Mapping[str, Tensor]


class SparseTraining:
    """data: client id → encoded examples. Where weights lie is found once for all jobs of a call.

    A client whose training fails, or runs out of memory, is a `Failure` with the reason.
    """

    def __init__(self, model: AdaptedModel, data: Examples) -> None:
        self._model = model
        self._data = data

    def of(self, jobs: Sequence[TrainSparse]) -> Iterator[Outcome]:
        found: dict[tuple[int, bytes], tuple[At, At]] = {}
        for job in jobs:
            yield attempt(job, partial(self._reply, job, found))

    def _reply(self, job: TrainSparse, found: dict[tuple[int, bytes], tuple[At, At]]) -> Reply:
        key = job.mask, job.payload
        if key not in found:
            found[key] = self._received(job)
        at, start = found[key]
        began, rise = time.perf_counter(), Rise(self._model.device)
        lesson = Lesson(self._data.get(job.client, ()), job.recipe, seeded(job.seed))
        trained = train_weights(self._model, lesson, at, start, job.trained)
        seconds, peak = time.perf_counter() - began, rise.bytes()
        return Reply(
            job=job.id,
            client=job.client,
            payload=to_bytes(values_payload(trained.change)),
            examples=trained.examples,
            loss=trained.loss,
            steps=trained.steps,
            tokens=trained.tokens,
            seconds=seconds,
            peak_bytes=peak,
        )

    def _received(self, job: TrainSparse) -> tuple[At, At]:
        """Where the weights lie that any client trains, and what they begin with."""
        payload = from_bytes(job.payload)
        counts = {name: len(values) for name, values in payload.tensors.items()}
        start = payload_values(payload, counts)
        layers = {layer.name: layer for layer in self._model.layers}
        return {x: places(layers[x], counts[x], job.mask) for x in layers}, start
