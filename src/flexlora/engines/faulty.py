"""An engine some of whose answers go wrong on purpose, so that a run can be rehearsed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import final

import torch

from flexlora.config.faults import FaultsConfig
from flexlora.engines.jobs import Evaluate, Failure, Job, Outcome, Reply, Scored, Transport
from flexlora.seeds import seed_of, seeded


@final
class Faulty:
    """Hands jobs to another engine, and drops, delays, doubles or damages what comes back.

    A client meets at most one fault each time it is asked, drawn by the faults' seed, the round,
    the client, the attempt and whether it is to train or to evaluate: by nothing that a stop
    forgets. Who crashes is never asked. An answer that is delayed comes when clients are next asked
    to train, without its bytes, for it is refused by its job; a stop in between loses it.
    """

    def __init__(self, engine: Transport, faults: FaultsConfig) -> None:
        self._engine = engine
        self._faults = faults
        self._held: list[Outcome] = []

    def close(self) -> None:
        self._engine.close()

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        met = {job.id: self._meets(job) for job in jobs}
        if any(not isinstance(job, Evaluate) for job in jobs):
            held, self._held = self._held, []
            yield from held
        for job in jobs:
            if met[job.id][0] == "crash":
                yield Failure(job.id, job.client, "it crashed, a fault made on purpose")
        asked = [job for job in jobs if met[job.id][0] != "crash"]
        for outcome in self._engine.exchange(asked):
            fault, draw = met.get(outcome.job, ("", 0.0))
            if fault == "drop":
                continue
            if fault == "delay":
                if isinstance(outcome, Reply):
                    outcome = replace(outcome, payload=b"")
                self._held.append(outcome)
                continue
            yield damaged(outcome, draw) if fault == "corrupt" else outcome
            if fault == "duplicate":
                yield outcome

    def _meets(self, job: Job) -> tuple[str, float]:
        """(the fault of this job or "", a number from 0 to 1 that says where it strikes)."""
        kind, attempt = ("evaluate", 1) if isinstance(job, Evaluate) else ("train", job.attempt)
        seed = seed_of(self._faults.seed, "fault", kind, job.round, job.client, attempt)
        draw, where = torch.rand(2, generator=seeded(seed), dtype=torch.float64).tolist()
        for fault, rate in self._faults.rates.items():
            if draw < rate:
                return fault, where
            draw -= rate
        return "", where


def damaged(outcome: Outcome, draw: float) -> Outcome:
    """A reply with a byte of its payload's header turned over, a score that is no number.

    The byte becomes one that no text has, so that the damage cannot go unnoticed.
    """
    if isinstance(outcome, Reply):
        header = int.from_bytes(outcome.payload[:8], "little")
        place = min(8 + int(draw * header), len(outcome.payload) - 1)
        payload = bytearray(outcome.payload)
        payload[place] ^= 0xFF
        return replace(outcome, payload=bytes(payload))
    if isinstance(outcome, Scored):
        means = dict.fromkeys(outcome.score.means, math.nan)
        return replace(outcome, score=replace(outcome.score, means=means))
    return outcome


def rehearsed(engine: Transport, faults: FaultsConfig) -> Transport:
    """The engine as it is, or with these faults, where there are any."""
    return Faulty(engine, faults) if faults.on else engine
