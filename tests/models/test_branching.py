"""Sequences that share pieces of a row come out as they do apart, on the way back too."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from flexlora.models import branching as module
from flexlora.models import packing
from flexlora.models.branching import branching, can_branch
from flexlora.models.packing import can_pack
from models.oracle import FAMILIES, random_model

LENGTHS = (5, 4, 2, 3, 1, 6)
PATHS = ((), (0,), (0,), (0, 2), (0, 2), ())
ROWS = ((0, 1), (0, 2, 3), (0, 2, 4), (5,))


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("heads", [4, 2])
def test_each_sees_what_it_goes_on_from_and_itself(window: int | None, heads: int) -> None:
    """Sequences apart, every shared piece of the row being one leaf of all of them."""
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(
            1, n, sum(LENGTHS), 6, generator=generator, dtype=torch.float64
        ).requires_grad_()
        for n in (4, heads, heads)
    ]
    options = {"scale": 0.3, "enable_gqa": heads != 4}
    attend = partial(packing._causal, window=window, options=options)
    row = branching(PATHS)(leaves, LENGTHS, attend, None)
    pieces = [torch.split(x, list(LENGTHS), dim=2) for x in leaves]
    split = torch.split(row, list(LENGTHS), dim=2)
    got, wanted = [], []
    for path in ROWS:
        got.append(torch.cat([split[k] for k in path], dim=2))
        wanted.append(attend(*(torch.cat([x[k] for k in path], dim=2) for x in pieces)))
    for one, other in zip(got, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    asked = torch.tensor([1, 4, 5, 9, 12, 14, 20])
    few = branching(PATHS)(leaves, LENGTHS, attend, asked)
    assert torch.allclose(few[:, :, asked], row[:, :, asked], atol=1e-12)
    assert int(few.any(dim=3).any(dim=1).sum()) == len(asked)
    back = [
        torch.autograd.grad([x.square().sum() for x in found], leaves, retain_graph=True)
        for found in (got, wanted)
    ]
    for one, other in zip(*back, strict=True):
        assert torch.allclose(one, other, atol=1e-11)


@pytest.mark.parametrize("family", [*FAMILIES, "mistral", "gemma3", "opt"])
def test_models_that_pack_do_it(family: str) -> None:
    model: Any = random_model(family).model
    assert can_pack(model)
    assert can_branch(model)


def test_what_is_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that see themselves alone."""
    monkeypatch.setattr(module, "branching", lambda paths: branching([()] * len(paths)))
    assert not can_branch(random_model("llama").model)
