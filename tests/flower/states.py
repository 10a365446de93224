"""Whether two runs stand at the same bits, wherever their clients were."""

from __future__ import annotations

from pathlib import Path

import torch

from flexlora.runs.run_directory import Run


def assert_same_state(one: Path, other: Path) -> None:
    ours, theirs = Run.open(one), Run.open(other)
    assert ours.checkpoints() == theirs.checkpoints()
    for round in ours.checkpoints():
        mine, wanted = ours.load_checkpoint(round), theirs.load_checkpoint(round)
        assert mine is not None
        assert wanted is not None
        assert mine[1]["store"] == wanted[1]["store"]
        assert mine[0].keys() == wanted[0].keys()
        for name in wanted[0]:
            assert torch.equal(mine[0][name], wanted[0][name]), (round, name)
