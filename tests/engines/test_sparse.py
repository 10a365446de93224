"""Jobs for single weights: in process and in workers alike, each client's failure its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flexlora.adapters.sparse import payload_values
from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Failure, Outcome, Reply, TrainSparse
from flexlora.engines.worker import Equipment
from flexlora.engines.workers import Workers
from flexlora.federation import prepare
from flexlora.federation.sending import Sender
from flexlora.federation.setup import Setup
from flexlora.federation.sparse_stage import SparseStage
from flexlora.formats.payloads import from_bytes
from flexlora.rules import make_rule
from small import small

RULE = make_rule("flexlora")


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(small())


@pytest.fixture(scope="module")
def jobs(setup: Setup) -> list[TrainSparse]:
    sender = Sender(RULE, setup.settings.schedule, setup.streams)
    made = SparseStage(sender, 1, Path())
    begun = made.begin(sender.begin(setup.spec))
    clients = sorted(setup.examples.train)
    return made.send(begun, setup.roster.fresh_store(), clients=clients).jobs


def exchange(setup: Setup, jobs: Sequence[TrainSparse]) -> dict[str, Outcome]:
    engine = InProcess(setup.model, setup.examples.train, RULE, cohort=2)
    return {outcome.client: outcome for outcome in engine.exchange(jobs)}


def test_clients_return_the_values_that_they_own(setup: Setup, jobs: list[TrainSparse]) -> None:
    found = exchange(setup, jobs)
    sizes = set()
    for job in jobs:
        reply = found[job.client]
        assert isinstance(reply, Reply)
        assert (reply.job, reply.steps) == (job.id, 2)
        assert reply.examples == len(setup.examples.train[job.client])
        values = payload_values(from_bytes(reply.payload), job.trained)
        assert all(bool(x.any()) for x in values.values())
        header = len(reply.payload) - 4 * sum(job.trained.values())
        assert 0 < header < 130 * (1 + len(values))  # Nothing but names, shapes and places.
        sizes.add(len(reply.payload))
    assert len(sizes) == 2  # Two ranks.


def test_a_client_without_data_fails_alone(setup: Setup, jobs: list[TrainSparse]) -> None:
    whole = exchange(setup, jobs)
    first, *others = jobs
    data = {**setup.examples.train, first.client: ()}
    engine = InProcess(setup.model, data, RULE)
    found = {outcome.client: outcome for outcome in engine.exchange(jobs)}
    failed = found[first.client]
    assert isinstance(failed, Failure)
    assert "no training examples" in failed.reason
    for job in others:
        ours, theirs = found[job.client], whole[job.client]
        assert isinstance(ours, Reply)
        assert isinstance(theirs, Reply)
        assert ours.payload == theirs.payload


def test_another_mask_trains_other_weights(setup: Setup, jobs: list[TrainSparse]) -> None:
    job = jobs[0]
    (ours,) = exchange(setup, [job]).values()
    (theirs,) = exchange(setup, [replace(job, mask=job.mask + 1)]).values()
    assert isinstance(ours, Reply)
    assert isinstance(theirs, Reply)
    assert ours.payload != theirs.payload


def test_workers_give_the_same_bytes(setup: Setup, jobs: list[TrainSparse]) -> None:
    threads = torch.get_num_threads()
    equipment = Equipment(
        setup.config.model, "cpu", RULE, setup.settings.validation, threads=threads
    )
    here = exchange(setup, jobs[:2])
    engine = Workers([equipment], setup.examples.train, setup.examples.held_out)
    with closing(engine):
        there = {outcome.client: outcome for outcome in engine.exchange(jobs[:2])}
    for job in jobs[:2]:
        ours, theirs = here[job.client], there[job.client]
        assert isinstance(ours, Reply)
        assert isinstance(theirs, Reply), theirs
        assert ours.payload == theirs.payload
