"""Whether two runs are one: the same bits and records, but for the time that they took."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.runs.events import Event, Failed, Halved, Replied, RoundBegun
from flexlora.runs.run_directory import Run

MEASURED = ("seconds", "peak_bytes")


def timeless(value: Any) -> Any:
    """The same without seconds, and what memory happened to be taken."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in MEASURED}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def happened(run: Run) -> list[Event]:
    """What happened in the rounds, in one order whoever was first, but for what was measured."""
    kinds = (RoundBegun, Replied, Failed, Halved)
    found = [event for event in run.events(Event) if isinstance(event, kinds)]
    found = [
        replace(x, seconds=0.0, peak_bytes=None) if isinstance(x, Replied) else x for x in found
    ]
    found.sort(key=lambda x: (x.round, x.name, str(getattr(x, "client", ""))))
    return [*found]


def assert_same_run(one: Path, other: Path) -> None:
    ours, theirs = Run.open(one), Run.open(other)
    assert ours.checkpoints() == theirs.checkpoints()
    for round in ours.checkpoints():
        (tensors, meta), (wanted, wanted_meta) = (
            opened.load_checkpoint(round) or pytest.fail("no checkpoint")
            for opened in (ours, theirs)
        )
        assert meta == wanted_meta
        assert tensors.keys() == wanted.keys()
        for path in wanted:
            assert tensors[path].dtype == wanted[path].dtype
            assert torch.equal(tensors[path], wanted[path]), path
    assert timeless(ours.read_metrics()) == timeless(theirs.read_metrics())
    assert happened(ours) == happened(theirs)
    assert ours.read_spectra() == theirs.read_spectra()
    assert len(ours.read_spectra()) == len(ours.read_metrics())
    assert ours.read_results() is not None
    assert timeless(ours.read_results()) == timeless(theirs.read_results())
    assert not ours.spool.exists()
