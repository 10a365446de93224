"""A process that really has no more memory: the error is the allocator's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: what one that has run for long has freed would be room beyond the limit.
SCRIPT = """
import json, resource
from dataclasses import replace
from pathlib import Path

import torch

from flexlora.adapters import Adapter, Factors, factors_payload
from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Offer
from flexlora.federation import prepare
from flexlora.formats.payloads import to_bytes
from flexlora.rules import make_rule
from small import first_jobs, small

ROOM = 120 << 20  # Bytes that the process may take from here on.


def job_of_rank(rank):
    # At a rank beyond all layers', whose five copies take 58 kB a rank.
    factors = {
        x.name: Factors(torch.zeros(x.m, rank), torch.ones(rank, x.n), 1.0)
        for x in setup.model.layers
    }
    return replace(job, id=f"1-{rank}", payload=to_bytes(factors_payload(Adapter(factors))))


setup, rule = prepare(small()), make_rule("flexlora")
job = first_jobs(setup, rule)[0]
jobs = [job_of_rank(rank) for rank in (3000, 8, 2400)]
engine = InProcess(setup.model, setup.examples.train, rule)
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + ROOM
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for asked in jobs:
    (found,) = engine.exchange([asked])
    offer = isinstance(found, Offer)
    told = [sorted(set(found.ranks.values())), found.reason] if offer else []
    print(json.dumps([type(found).__name__, *told]), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_client_whose_process_has_no_more_memory_offers_half_and_the_engine_goes_on() -> None:
    tests = Path(__file__).parents[1]
    paths = [str(tests.parent / "src"), str(tests)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second, third = (json.loads(line) for line in done.stdout.splitlines()[-3:])
    assert first[:2] == ["Offer", [1500]]
    assert "allocate" in first[2]
    assert second == ["Reply"]
    assert third[0] == "Offer"
