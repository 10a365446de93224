"""Replication: what a client lacks is copied from the strongest."""

from __future__ import annotations

import torch

from flexlora.rules.replicate import Replicate
from reference import assert_close
from rules.by_hand import combined, sent, start
from rules.test_rbla_rule import ANN, BOB, CYD, ROUND, SPEC


def test_what_is_lacking_is_the_strongest_clients() -> None:
    """The second row: bob / 4 + cyd / 4 + cyd / 2 for ann, where RBLA has (bob + cyd) / 2."""
    rule = Replicate()
    state = combined(rule, SPEC, start(rule, SPEC), *ROUND).state
    assert_close(state["b"], torch.tensor([[4.5, 2.5, 6.0], [0.5, 3.5, 2.0]]), 1e-6)
    assert_close(state["a"], torch.tensor([[3.0, 2.0], [1.0, 5.0], [1.0, 2.0]]), 1e-6)


def test_it_is_the_mean_of_adapters_that_were_filled_up_first() -> None:
    """Two strongest clients: their weighted mean is what is copied."""
    rule = Replicate()
    parts = [(0.5, BOB), (0.125, CYD), (0.375, type(CYD)(2.0 * CYD.b, -CYD.a, 1.0))]
    state = combined(rule, SPEC, start(rule, SPEC), *parts).state
    for side in ("b", "a"):
        rows = [getattr(f, side).double() for _, f in parts]
        rows = [x.T if side == "b" else x for x in rows]
        source = (0.125 * rows[1] + 0.375 * rows[2]) / 0.5
        filled = [torch.cat([x, source[x.shape[0] :]]) for x in rows]
        wanted = sum((w * x for (w, _), x in zip(parts, filled, strict=True)), torch.zeros(()))
        assert_close(state[side], wanted.T if side == "b" else wanted, 1e-6)


def test_rows_that_no_client_of_the_round_owns_stay() -> None:
    rule = Replicate()
    before = combined(rule, SPEC, start(rule, SPEC), *ROUND).state
    after = combined(rule, SPEC, before, (0.5, ANN), (0.5, BOB)).state
    assert_close(after["b"][:, 1], BOB.b[:, 1], 1e-6)  # Bob's are the strongest here.
    assert torch.equal(after["b"][:, 2:], before["b"][:, 2:])
    assert torch.equal(after["a"][2:], before["a"][2:])


def test_all_are_sent_the_first_rows_at_one_scale() -> None:
    rule = Replicate()
    state = combined(rule, SPEC, start(rule, SPEC), *ROUND).state
    given = sent(rule, SPEC, state, 2)
    assert given.scale == 1.0
    assert torch.equal(given.a, state["a"][:2])
