"""FedEx-LoRA: Δ and what is sent are the exact sum."""

from __future__ import annotations

import torch

from flexlora.rules.fedex import FedExLoRA
from reference import Round, assert_close, dense, generator, learned, play, product, random_training
from rules.by_hand import NAME, alone, combined, made, spec, start

SPEC = spec(2, 3, m=20, n=15, alpha=4.0)
COHORT = {"ann": {NAME: 2}, "bob": {NAME: 3}, "cyd": {NAME: 2}}
RULE = FedExLoRA()


def test_the_residual_by_hand() -> None:
    """Σ w B A = diag(1/2, 1/2), B̄ Ā = 1/4 everywhere: what is between goes into Δ."""
    of = spec(1, alpha=1.0)
    given = ((0.5, alone(0, 1.0, 1.0)), (0.5, alone(1, 1.0, 1.0)))
    after = combined(RULE, of, start(RULE, of), *given)
    assert_close(after.state["b"], torch.tensor([[0.5], [0.5]]), 1e-6)
    assert_close(after.state["a"], torch.tensor([[0.5, 0.5]]), 1e-6)
    assert after.frozen is not None
    assert after.step is not None
    residual = torch.tensor([[0.25, -0.25], [-0.25, 0.25]])
    assert_close(dense(after.frozen), residual, 1e-5)
    assert_close(dense(after.step), residual, 1e-5)


def test_equal_clients_leave_nothing_over() -> None:
    of = spec(1, alpha=1.0)
    same = made([[3], [1]], [[2, 5]], 1.0)
    after = combined(RULE, of, start(RULE, of), (0.25, same), (0.75, same))
    assert after.frozen is not None
    assert float(dense(after.frozen).norm()) < 1e-5


def test_delta_and_what_is_sent_are_the_exact_sum_round_after_round() -> None:
    state = RULE.init(SPEC, generator())
    for seed in range(6):
        before = state.delta.layers.get(NAME)
        round = Round(RULE, state, COHORT, random_training(seed), seed=seed)
        exact = sum(
            (w * product(round.replies[c][NAME]) for c, w in round.weights.items()),
            torch.zeros(20, 15).double() if before is None else dense(before),
        )
        state = round.combined()
        sent = RULE.send(state, {NAME: 2}, generator())[NAME]
        assert_close(dense(state.delta.layers[NAME]) + product(sent), exact, 1e-5)
        assert_close(learned(RULE, state)[NAME], exact, 1e-5)


def test_who_holds_the_last_delta_is_sent_one_rounds_residual() -> None:
    state = RULE.init(SPEC, generator())
    for seed in range(3):
        state = play(RULE, state, COHORT, random_training(seed), seed)
    update, whole = state.delta.since(2), state.delta.since(None)
    assert update is not None
    assert whole is not None
    assert update.start == 2
    assert update.layers[NAME].width <= 6 < whole.layers[NAME].width  # Σ r: three of the lowest.
