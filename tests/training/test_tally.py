"""Bytes that a computation would hold, counted on tensors that have no data."""

from __future__ import annotations

import torch

from flexlora.training.tally import Tally, without_data


def test_what_is_made_counts_until_it_is_let_go() -> None:
    with without_data():
        there = torch.zeros(1000)
        tally = Tally([there])
        with tally:
            view = there[:10]
            one = torch.zeros(250)
            two = torch.zeros(500)
            same = two.view(5, 100)
            assert tally.live == 3000
            del one
            assert tally.live == 2000
            del two, same
            assert (tally.live, tally.highest) == (0, 3000)
            assert view.numel() == 10


def test_nothing_is_allocated() -> None:
    with without_data():
        tally = Tally([])
        with tally:
            huge = torch.zeros(10**6, 10**6)
            assert tally.live == 4 * 10**12
            assert bool((huge == 1).all())
            assert float(huge[0, 0]) == 1.0
