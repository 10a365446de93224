"""Bytes that a computation would hold, counted on tensors that have no data."""

from __future__ import annotations

import torch
from torch.nn import functional

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


def test_what_an_operation_reads_and_writes_counts_and_a_view_does_not() -> None:
    with without_data():
        tally = Tally([])
        with tally:
            one = torch.ones(100, 10)
            assert (tally.calls, tally.moved) == (1, 4000)
            turned = one.T[:5]
            assert (tally.calls, tally.moved) == (1, 4000)
            turned.add_(1.0)  # 50 numbers of 10 rows, read and written.
            assert (tally.calls, tally.moved) == (2, 4000 + 2 * turned.nbytes)
            _ = one @ one.T
            assert (tally.calls, tally.moved) == (3, 4000 + 2 * turned.nbytes + 8000 + 40000)


def test_attention_is_counted_there_and_back() -> None:
    with without_data():
        row = torch.ones(1, 2, 8, 4, requires_grad=True)
        tally = Tally([row])
        with tally:
            seen = functional.scaled_dot_product_attention(row, row, row, is_causal=True)
            assert tally.attended == [1, 0]
            seen.sum().backward()
            assert tally.attended == [1, 1]
