"""RBLA: the mean of a row is over those that own it."""

from __future__ import annotations

import torch

from flexlora.rules.rbla import RBLA
from reference import assert_close
from rules.by_hand import combined, learned, made, sent, spec, start

SPEC = spec(1, 2, 3, alpha=3.0)
ANN = made([[4], [0]], [[4, 0]], 1.0)
BOB = made([[8, 4], [0, 8]], [[0, 4], [4, 8]], 1.0)
CYD = made([[2, 2, 6], [2, 2, 2]], [[4, 4], [0, 4], [1, 2]], 1.0)
ROUND = ((0.5, ANN), (0.25, BOB), (0.25, CYD))


def test_each_row_is_the_mean_over_its_owners() -> None:
    """The second: (bob + cyd) / 2; the third, which cyd alone owns, is cyd's."""
    rule = RBLA()
    state = combined(rule, SPEC, start(rule, SPEC), *ROUND).state
    assert_close(state["b"], torch.tensor([[4.5, 3.0, 6.0], [0.5, 5.0, 2.0]]), 1e-6)
    assert_close(state["a"], torch.tensor([[3.0, 2.0], [2.0, 6.0], [1.0, 2.0]]), 1e-6)
    assert_close(learned(rule, SPEC, state), state["b"].double() @ state["a"].double(), 1e-6)


def test_all_are_sent_the_first_rows_at_one_scale() -> None:
    rule = RBLA()
    state = combined(rule, SPEC, start(rule, SPEC), *ROUND).state
    for rank in (1, 2, 3):
        given = sent(rule, SPEC, state, rank)
        assert given.scale == 1.0  # α / 3, whoever it is.
        assert torch.equal(given.b, state["b"][:, :rank])
        assert torch.equal(given.a, state["a"][:rank])


def test_rows_that_nobody_owns_stay() -> None:
    rule = RBLA()
    before = combined(rule, SPEC, start(rule, SPEC), *ROUND).state
    after = combined(rule, SPEC, before, (1.0, ANN)).state
    assert torch.equal(after["b"][:, :1], ANN.b)
    assert torch.equal(after["b"][:, 1:], before["b"][:, 1:])
    assert torch.equal(after["a"][1:], before["a"][1:])
