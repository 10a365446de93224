"""The engine inside one process: clients train on this machine, several at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from flexlora.adapters import (
    Adapter,
    coarse_payload,
    factors_payload,
    payload_adapter,
    wire_of,
)
from flexlora.engines.attempts import attempt, failure, offer
from flexlora.engines.cohorts import Examples, Halved, cohorts, cut, ignore_halved
from flexlora.engines.jobs import Evaluate, Failure, Job, Outcome, Reply, Train, TrainSparse
from flexlora.engines.memories import Memories
from flexlora.engines.own_scores import OwnScores
from flexlora.engines.sparse import SparseTraining
from flexlora.errors import ConfigError, FlexLoRAError, RuleError
from flexlora.evaluation import ClientScore, EvalSettings
from flexlora.formats.payloads import from_bytes, meta_of, to_bytes
from flexlora.models import AdaptedModel
from flexlora.rules import Memory, Rule
from flexlora.rules.promises import require_encoded, require_received
from flexlora.screens import Screen
from flexlora.seeds import seed_of, seeded
from flexlora.shortage import out_of_memory
from flexlora.training import Trained, Visit, train_cohort
from flexlora.training.memory import Rise


class InProcess:
    """Does every job here, on the client's own data (client id → encoded examples).

    held_out: client id → what it scores on; a client without has nothing to score. settings: how,
    but for the metrics, which every job names. cohort: clients that train in one forward pass;
    where their memory does not suffice it is halved, for good, and `halved` is told.
    memory: the folder for what clients remember, where the rule has them remember anything; else
    nothing is written. ConfigError where there is none. screens: whose clients' half is applied to
    what was trained.

    What is sent and what comes back passes through its serialised form, as it would on a network.
    A client whose training fails is a `Failure` with the reason; one that runs out of memory alone
    answers with an `Offer` of half its ranks, where they have a half.
    """

    def __init__(
        self,
        model: AdaptedModel,
        data: Examples,
        rule: Rule,
        held_out: Examples | None = None,
        settings: EvalSettings | None = None,
        *,
        cohort: int = 1,
        halved: Halved = ignore_halved,
        memory: Path | None = None,
        screens: Sequence[Screen] = (),
    ) -> None:
        self.screens = screens
        self.model = model
        self.data = data
        self.rule = rule
        self._memories = _memories(rule, memory)
        settings = settings or EvalSettings()
        self._own = OwnScores(model, held_out or {}, settings, rule, self._memories)
        self._sparse = SparseTraining(model, data)
        self.cohort = cohort
        self.halved = halved

    def close(self) -> None:
        """Nothing outlives an exchange."""

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        yield from self._train_all([job for job in jobs if isinstance(job, Train)])
        yield from self._sparse.of([job for job in jobs if isinstance(job, TrainSparse)])
        yield from self._own.of_sent([job for job in jobs if isinstance(job, Evaluate)])

    def _train_all(self, jobs: Sequence[Train]) -> Iterator[Outcome]:
        """Cohort after cohort; clients of about as many steps, and of like ranks, share one."""
        waiting = cohorts(jobs, self.data, self.cohort)
        while waiting:
            outcomes = self._train(waiting[0])
            if outcomes is None:
                self.cohort = len(waiting[0]) // 2
                self.halved(jobs[0].round, self.cohort)
                waiting = [part for together in waiting for part in cut(together, self.cohort)]
                continue
            del waiting[0]
            yield from outcomes
            del outcomes  # Replies of two cohorts are not held at once.

    def _train(self, jobs: Sequence[Train]) -> list[Outcome] | None:
        """Train these jobs' clients in one forward pass; None: that takes too much memory."""
        began, rise = time.perf_counter(), Rise(self.model.device)
        outcomes: list[Outcome] = []
        remembered: dict[Train, Memory] = {}
        visits: dict[Train, Visit] = {}
        ran_out = ""
        try:
            for job, read in self._read(jobs).items():
                if isinstance(read, Failure):
                    outcomes.append(read)
                else:
                    visits[job], remembered[job] = read
            self.model.set_delta(jobs[0].delta.layers)
            found = self._trained(visits)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            ran_out = failure(jobs[0], error).reason
        if ran_out:  # What the error's frames held is free by now.
            return None if len(jobs) > 1 else [attempt(jobs[0], partial(offer, jobs[0], ran_out))]
        seconds, peak = time.perf_counter() - began, rise.bytes()
        trained: dict[Train, Trained] = {}
        for job, result in zip(visits, found, strict=True):
            if isinstance(result, Trained):
                trained[job] = result
            else:
                outcomes.append(failure(job, result))
        tokens = sum(result.tokens for result in trained.values())
        scores = self._own.of_trained(
            {job: (visits[job].adapter, result.adapter) for job, result in trained.items()}
        )
        for job, result in trained.items():
            score = scores.get(job)
            if isinstance(score, Failure):
                outcomes.append(score)
                continue
            share = seconds * result.tokens / tokens
            start = visits[job].adapter
            reply = partial(self._reply, job, start, remembered[job], result, share, score)
            told = attempt(job, reply)
            if isinstance(told, Reply):
                told = replace(told, peak_bytes=peak, cohort=len(visits))
            outcomes.append(told)
        return outcomes

    def _read(self, jobs: Sequence[Train]) -> dict[Train, tuple[Visit, Memory] | Failure]:
        """What each client begins with; the same bytes are read once."""
        sent: dict[bytes, Adapter] = {}
        found: dict[Train, tuple[Visit, Memory] | Failure] = {}
        for job in jobs:
            memory = self._remembered(job)  # Lost, it ends the run: no client has lost it.
            try:
                if job.payload not in sent:
                    sent[job.payload] = payload_adapter(from_bytes(job.payload))
                given = sent[job.payload]
                received = self.rule.receive(given, memory)
                require_received(self.rule, received, given, job.client)
            except RuleError:  # No client's doing.
                raise
            except FlexLoRAError as error:
                found[job] = failure(job, error)
                continue
            data = self.data.get(job.client, ())
            found[job] = Visit(received, data, job.recipe, seeded(job.seed)), memory
        return found

    def _trained(self, visits: Mapping[Train, Visit]) -> list[Trained | FlexLoRAError]:
        """In their order; where the rule's penalty fails, one by one, so that it is one's alone."""
        first = next(iter(visits), None)
        if first is None:
            return []
        draws = {job: visit.generator.get_state() for job, visit in visits.items()}
        try:
            return train_cohort(
                self.model,
                list(visits.values()),
                origin=first.origin,
                sides=first.sides,
                penalty=self.rule.penalty if self.rule.penalises else None,
            )
        except RuleError:
            raise
        except FlexLoRAError as error:
            if len(visits) == 1:
                return [error]
        for job, visit in visits.items():
            visit.generator.set_state(draws[job])
        return [one for job, visit in visits.items() for one in self._trained({job: visit})]

    def _remembered(self, job: Train) -> Memory:
        """What the client remembers of earlier rounds."""
        return {} if self._memories is None else self._memories.begin(job.client, job.answered)

    def _reply(
        self,
        job: Train,
        start: Adapter,
        memory: Memory,
        trained: Trained,
        seconds: float,
        score: ClientScore | None,
    ) -> Reply:
        screened = trained.adapter
        for screen in self.screens:
            draws = seeded(seed_of(job.seed, "screen", screen.name))
            screened = screen.passed(screened, start, draws).only(job.sides).filled(start)
        encoded = self.rule.reply(job.round, screened, start, memory)
        require_encoded(self.rule, encoded.adapter, start, job.client)
        wire, draws = wire_of(meta_of(job.payload)), seeded(seed_of(job.seed, "wire"))
        # What came coarse is answered coarse.
        payload = to_bytes(coarse_payload(factors_payload(encoded.adapter), wire, draws))
        if self._memories is not None:
            self._memories.keep(job.client, job.round, encoded.memory, job.kept)
        return Reply(
            job=job.id,
            client=job.client,
            payload=payload,
            examples=trained.examples,
            loss=trained.loss,
            steps=trained.steps,
            tokens=trained.tokens,
            seconds=seconds,
            score=score,
        )


def _memories(rule: Rule, folder: Path | None) -> Memories | None:
    if not rule.traits.memory:
        return None
    if folder is None:
        raise ConfigError(
            f"the clients of rule {rule.name} remember what is their own; give the engine a folder "
            "for it"
        )
    return Memories(folder)
