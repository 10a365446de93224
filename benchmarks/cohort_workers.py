"""The side of cohort.py that trains in several processes: payloads, pipes and all."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cohort_case import Client
from flexlora.adapters import Delta, factors_payload
from flexlora.config.config import ModelConfig
from flexlora.engines.jobs import Reply, Train
from flexlora.engines.worker import Equipment
from flexlora.engines.workers import Workers
from flexlora.evaluation import EvalSettings
from flexlora.formats.payloads import to_bytes
from flexlora.models import BaseModel
from flexlora.rules import make_rule


class Team:
    """Worker processes that share this process's threads among them; they end with it."""

    def __init__(self, base: BaseModel, workers: int) -> None:
        equipment = Equipment(
            ModelConfig(name=base.name, device="cpu"),
            "cpu",
            make_rule("flexlora"),
            EvalSettings(),
            max(1, torch.get_num_threads() // workers),
        )
        self._workers = Workers([equipment] * workers, {}, {})
        self._count = workers

    def train(self, at_once: int, clients: Sequence[Client]) -> list[float]:
        """The mean loss of each client, `at_once` of them in one pass of each worker."""
        self._workers.cohort = at_once
        self._workers.data = {str(place): client.data for place, client in enumerate(clients)}
        delta = Delta()
        jobs = [
            Train(
                id=str(place),
                round=1,
                client=str(place),
                payload=to_bytes(factors_payload(client.adapter)),
                delta=delta,
                held=None,
                origin=False,
                sides="both",
                recipe=client.recipe,
                seed=client.seed,
                metrics=(),
                bytes_down=0,
            )
            for place, client in enumerate(clients)
        ]
        losses = {}
        for outcome in self._workers.exchange(jobs):
            if not isinstance(outcome, Reply):
                raise RuntimeError(f"client {outcome.client} gave nothing: {outcome}")
            losses[outcome.job] = outcome.loss
        return [losses[job.id] for job in jobs]
