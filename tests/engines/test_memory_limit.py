"""A process that really has no more memory: the error is the allocator's own."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from flexlora.adapters import Adapter, Factors, factors_payload
from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Offer, Outcome, Reply, Train
from flexlora.federation import prepare
from flexlora.federation.setup import Setup
from flexlora.formats.payloads import to_bytes
from flexlora.rules import make_rule
from small import first_jobs, small

RULE = make_rule("flexlora")
ROOM = 120 << 20  # Bytes that the process may take from here on.


def job_of_rank(setup: Setup, job: Train, rank: int) -> Train:
    """At a rank beyond all layers', whose five copies take 58 kB a rank."""
    factors = {
        x.name: Factors(torch.zeros(x.m, rank), torch.ones(rank, x.n), 1.0)
        for x in setup.model.layers
    }
    return replace(job, id=f"1-{rank}", payload=to_bytes(factors_payload(Adapter(factors))))


def limited(pipe: Connection, engine: InProcess, jobs: list[Train]) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    outcomes: list[Outcome] = [x for job in jobs for x in engine.exchange([job])]
    pipe.send([replace(x, payload=b"") if isinstance(x, Reply) else x for x in outcomes])


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_client_whose_process_has_no_more_memory_offers_half_and_the_engine_goes_on() -> None:
    setup = prepare(small())
    job = first_jobs(setup, RULE)[0]
    jobs = [job_of_rank(setup, job, rank) for rank in (3000, 8, 2400)]
    engine = InProcess(setup.model, setup.examples.train, RULE)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=limited, args=(theirs, engine, jobs)
    )
    process.start()
    theirs.close()
    first, second, third = ours.recv()
    process.join()
    assert isinstance(first, Offer)
    assert set(first.ranks.values()) == {1500}
    assert "allocate" in first.reason
    assert isinstance(second, Reply)
    assert isinstance(third, Offer)
