"""ECLoRA: what a cut loses is there in the next round."""

from __future__ import annotations

import torch

from flexlora.adapters import Factors
from flexlora.rules import Rule, make_rule
from reference import assert_close, best, gaussian, product
from rules.by_hand import alone, combined, learned, spec, start

SPEC = spec(1, alpha=1.0)
# Σ w s B A = diag(3.5, 1) in each round, at rank 1.
ROUND = ((0.5, alone(0, 7.0, 1.0)), (0.5, alone(1, 2.0, 1.0)))


def diagonals(rule: Rule, rounds: int) -> list[list[float]]:
    """What is learned after each round; it has nothing off the diagonal."""
    state, found = start(rule, SPEC), []
    for _ in range(rounds):
        state = combined(rule, SPEC, state, *ROUND).state
        matrix = learned(rule, SPEC, state)
        assert_close(matrix, torch.diag(matrix.diagonal()), 1e-6)
        found.append([round(x, 4) + 0.0 for x in matrix.diagonal().tolist()])
    return found


def test_what_every_round_cuts_off_adds_up_until_it_is_kept() -> None:
    """E = diag(0, 1), (0, 2), (0, 3), then 4 is the largest: E = diag(3.5, 0)."""
    assert diagonals(make_rule("eclora"), 5) == [[3.5, 0]] * 3 + [[0, 4], [7, 0]]
    assert diagonals(make_rule("flexlora"), 5) == [[3.5, 0]] * 5


def test_it_is_the_dense_feedback_loop() -> None:
    """kept = best rank 3 of Σ + E, E = what that leaves, in float64; ranks 1 to 3 take part."""
    of, rule = spec(1, 2, 3, m=12, n=10, alpha=6.0), make_rule("eclora")
    state, error = start(rule, of), torch.zeros(12, 10).double()
    for seed in range(0, 40, 10):
        parts = [
            (w, Factors(gaussian(12, r, seed=seed + r), gaussian(r, 10, seed=seed - r), 6.0 / r))
            for w, r in ((0.5, 1), (0.3, 2), (0.2, 3))
        ]
        summed = sum((w * product(f) for w, f in parts), error)
        kept = best(summed, 3)
        error = summed - kept
        after = combined(rule, of, state, *parts)
        state = after.state
        assert_close(learned(rule, of, state), kept, 1e-4)
        assert after.certificate is not None
