"""On which GPUs processes train, and what each may take of one; the GPUs are told of, not there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from flexlora.engines.workers import Workers
from flexlora.federation import at_once
from flexlora.federation.engine import make_engine, workers_of
from flexlora.federation.setup import Setup
from flexlora.rules import make_rule
from small import small

GIGABYTE = 10**9


@pytest.fixture(autouse=True)
def _four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(at_once, "total_bytes", lambda _: 16 * GIGABYTE)
    monkeypatch.setattr(at_once, "free_bytes", lambda _: 16 * GIGABYTE)


def on(device: str, **run: Any) -> Setup:
    """What is asked of a setup whose model is on the first GPU, or on the one that is named."""
    place = torch.device("cuda:0" if device in ("auto", "cuda") else device)
    model = SimpleNamespace(device=place, model=torch.nn.Linear(1, 1))
    config = small(model={"device": device}, run={"workers": "auto", **run})
    nothing = SimpleNamespace(train={}, held_out={})
    settings = SimpleNamespace(validation=SimpleNamespace(metrics=()))
    made = SimpleNamespace(
        config=config, model=model, threads=4, examples=nothing, settings=settings
    )
    return cast("Setup", made)


@pytest.mark.parametrize(
    ("device", "workers", "wanted"),
    [
        ("auto", "auto", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda", 6, ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0", "cuda:1"]),
        ("cuda:1", 2, ["cuda:1", "cuda:1"]),
        ("cpu", 2, ["cpu", "cpu"]),
    ],
)
def test_a_gpu_that_is_named_is_the_only_one(
    monkeypatch: pytest.MonkeyPatch, device: str, workers: int | str, wanted: list[str]
) -> None:
    begun: list[str] = []

    def listens(_: Workers, equipment: Any, *__: Any, **___: Any) -> None:
        begun.extend(one.device for one in equipment)

    monkeypatch.setattr(Workers, "__init__", listens)
    setup = on(device, workers=workers)
    make_engine(setup, make_rule("flexlora"), cohort=1, halved=lambda *_: None)
    assert begun == wanted
    assert workers_of(setup) == len(wanted)


@pytest.mark.parametrize("device", ["cuda:2", "cpu"])
def test_one_process_is_enough_for_one_device(device: str) -> None:
    assert workers_of(on(device)) == 1


@pytest.mark.parametrize(
    ("device", "workers", "sharing"),
    [("auto", 1, 1), ("auto", 4, 1), ("auto", 5, 2), ("auto", 8, 2), ("cuda:3", 3, 3)],
)
def test_processes_on_one_gpu_share_what_it_has(device: str, workers: int, sharing: int) -> None:
    alone, shared = on("cuda:0", workers=1), on(device, workers=workers)
    whole = at_once._free_budget(alone)
    assert whole > GIGABYTE
    assert at_once._free_budget(shared) == whole // sharing
    weights = 2 * 4
    certain = at_once._certain_budget(alone) + weights
    assert at_once._certain_budget(shared) == certain // sharing - weights
    limited = on(device, workers=workers, memory_gb=8.0)
    assert at_once._certain_budget(limited) == 8 * GIGABYTE // workers
