"""The effective rank: how many directions a spectrum really uses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexlora.lowrank import effective_rank

values = st.lists(st.floats(0.0, 1e30), min_size=1, max_size=12)


def slow(sigma: list[float]) -> float:
    total = math.fsum(sigma)
    shares = [s / total for s in sigma if s / total > 0.0]
    return math.exp(-math.fsum(p * math.log(p) for p in shares))


@given(values)
def test_it_is_the_exponential_of_the_entropy(sigma: list[float]) -> None:
    got = effective_rank(torch.tensor(sigma, dtype=torch.float64))
    if math.fsum(sigma) == 0.0:
        assert got == 0.0
        return
    assert got == pytest.approx(slow(sigma), rel=1e-9)
    assert 1.0 - 1e-9 <= got <= sum(s > 0.0 for s in sigma) + 1e-9


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e300])
def test_neither_scale_nor_order_count(scale: float) -> None:
    sigma = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    wanted = effective_rank(sigma)
    assert effective_rank(sigma.flip(0) * scale) == pytest.approx(wanted, rel=1e-12)
    assert 2.7 < wanted < 2.8


def test_the_edges() -> None:
    assert effective_rank(torch.zeros(0)) == 0.0
    assert effective_rank(torch.zeros(4)) == 0.0
    assert effective_rank(torch.ones(7)) == pytest.approx(7.0)
    assert effective_rank(torch.tensor([5.0, 0.0, 0.0])) == 1.0
    assert effective_rank(torch.ones(3, dtype=torch.bfloat16)) == pytest.approx(3.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_what_is_no_spectrum_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="negative, NaN or infinite"):
        effective_rank(torch.tensor([1.0, bad]))
