"""A federation on a wire of fewer bits: what counts is what arrives, and its bytes are counted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flexlora.adapters import Wire, wire_of
from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Reply
from flexlora.federation.sending import Sender
from flexlora.federation.session import Session
from flexlora.federation.setup import prepare
from flexlora.formats.payloads import meta_of
from flexlora.rules import make_rule
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Run
from small import read, small


def played(wire: Wire, folder: Path, rule: str) -> list[RoundRecord]:
    config = small(rule={"name": rule}, federation={"wire": wire, "rounds": 2})
    Session.of(config).play(folder)
    return Run.open(folder).records()


@pytest.mark.parametrize("rule", ["flexlora", "ffa", "hetlora", "flora"])
def test_every_client_counts_and_bytes_are_fewer(rule: str, tmp_path: Path) -> None:
    exact, coarse = (played(wire, tmp_path / wire, rule) for wire in ("exact", "bfloat16"))
    for mine, whole in zip(coarse, exact, strict=True):
        assert mine.failures == 0
        assert math.isfinite(mine.train_loss)
        assert mine.bytes_up < 0.75 * whole.bytes_up  # Small layers, whose names take room too.
        assert mine.bytes_down < whole.bytes_down


@pytest.mark.parametrize("wire", ["bfloat16", "int8"])
def test_what_the_server_takes_for_sent_is_what_the_client_begins_with(wire: Wire) -> None:
    """And what came coarse is answered coarse, by the job's own seed."""
    setup, rule = prepare(small(federation={"wire": wire})), make_rule("flexlora")
    sender = Sender(rule, setup.settings.schedule, setup.streams)
    begun, store = sender.begin(setup.spec), setup.roster.fresh_store()
    sending = sender.training(begun, store)
    exact = replace(sender, schedule=replace(sender.schedule, wire="exact")).training(begun, store)
    for job, whole in zip(sending.jobs, exact.jobs, strict=True):
        arrived = read(job.payload)
        assert wire_of(meta_of(job.payload)) == wire
        assert job.bytes_down < whole.bytes_down
        for name, factors in sending.sent[job.client].items():
            assert torch.equal(arrived[name].a, factors.a)
            assert torch.equal(arrived[name].b, factors.b)
    engine = InProcess(setup.model, setup.examples.train, rule)
    once, again = (list(engine.exchange(sending.jobs[:1])) for _ in range(2))
    assert isinstance(once[0], Reply)
    assert isinstance(again[0], Reply)
    assert wire_of(meta_of(once[0].payload)) == wire
    assert once[0].payload == again[0].payload
