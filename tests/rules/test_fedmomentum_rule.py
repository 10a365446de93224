"""FedMomentum: the best part goes on, the rest into Δ."""

from __future__ import annotations

import pytest
import torch

from flexlora.rules.fedmomentum import FedMomentum
from reference import Round, assert_close, best, dense, generator, learned, product, random_training
from rules.by_hand import NAME, alone, combined, sent, spec, start

SPEC = spec(2, 3, m=20, n=15, alpha=4.0)
COHORT = {"ann": {NAME: 2}, "bob": {NAME: 3}, "cyd": {NAME: 2}}
RULE = FedMomentum()


def test_the_cut_by_hand() -> None:
    """The sum is diag(8, 1) at rank 1: 8 goes on, √(8 / s) on each side, and 1 into Δ."""
    of = spec(1, alpha=2.0)
    given = ((0.5, alone(0, 16.0, 2.0)), (0.5, alone(1, 2.0, 2.0)))
    after = combined(RULE, of, start(RULE, of), *given)
    assert after.frozen is not None
    assert_close(dense(after.frozen), torch.diag(torch.tensor([0.0, 1.0])), 1e-6)
    going_on = sent(RULE, of, after.state, 1)
    assert_close(product(going_on), torch.diag(torch.tensor([8.0, 0.0])), 1e-6)
    assert going_on.scale == 2.0
    assert [float(x.norm()) for x in (going_on.b, going_on.a)] == pytest.approx([2.0, 2.0])


def test_delta_and_what_is_sent_are_the_exact_sum_round_after_round() -> None:
    """And what is sent is the best rank 2 of the round's own sum, not of all that was learned."""
    state = RULE.init(SPEC, generator())
    for seed in range(6):
        before = state.delta.layers.get(NAME)
        round = Round(RULE, state, COHORT, random_training(seed), seed=seed)
        parts = (w * product(round.replies[c][NAME]) for c, w in round.weights.items())
        summed = sum(parts, torch.zeros(()))
        state = round.combined()
        going_on = product(RULE.send(state, {NAME: 2}, generator())[NAME])
        assert_close(going_on, best(summed, 2), 1e-5)
        exact = summed if before is None else summed + dense(before)
        assert_close(dense(state.delta.layers[NAME]) + going_on, exact, 1e-5)
        assert_close(learned(RULE, state)[NAME], exact, 1e-5)
    update, whole = state.delta.since(5), state.delta.since(None)
    assert update is not None
    assert whole is not None
    assert (update.start, update.layers[NAME].width) == (5, 4)  # Σ r less the two that go on.
    assert whole.layers[NAME].width > 4
