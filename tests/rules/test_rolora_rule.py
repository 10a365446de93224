"""RoLoRA: one side a round, whose mean is the exact mean of products."""

from __future__ import annotations

import torch

from flexlora.rules.rolora import RoLoRA
from reference import Round, assert_close, generator, learned, product, random_training
from rules.by_hand import NAME, spec

SPEC = spec(2, 3, m=5, n=4, alpha=4.0)
COHORT = {"ann": {NAME: 2}, "bob": {NAME: 3}}
RULE = RoLoRA()


def test_the_side_that_rests_keeps_its_bits_and_the_other_is_the_exact_mean() -> None:
    state = RULE.init(SPEC, generator())
    for number in range(1, 6):
        round = Round(RULE, state, COHORT, random_training(number), {"ann": 1, "bob": 3})
        after = round.combined()
        moves, rests = ("b", "a") if number % 2 else ("a", "b")
        assert RULE.trains(number) == RULE.returns(number) == moves
        old, new = state.layers[NAME], after.layers[NAME]
        assert torch.equal(new[rests], old[rests])
        ann, bob = (round.replies[client][NAME] for client in ("ann", "bob"))
        assert (ann.rank, ann.scale) == (bob.rank, bob.scale) == (2, 2.0)  # The lowest.
        mean = 0.25 * getattr(ann, moves) + 0.75 * getattr(bob, moves)
        assert_close(new[moves], mean, 1e-6)
        exact = 0.25 * product(ann) + 0.75 * product(bob)
        assert_close(learned(RULE, after)[NAME], exact, 1e-6)
        state = after
