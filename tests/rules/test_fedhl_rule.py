"""FedHL: changes upon the whole update, by weights that know what each rank cut off."""

from __future__ import annotations

import pytest
import torch

from flexlora.adapters import Factors
from flexlora.rules import Contribution, LayerState
from flexlora.rules.fedhl import FedHL
from flexlora.screens.shrink import shrunk
from reference import Round, assert_close, nothing, product
from reference import learned as learned_of
from rules.by_hand import alone, combined, diagonal, learned, sent, spec, start
from rules.test_increment_rule import (
    COHORT,
    EQUAL,
    LAYER,
    after_a_flat_update,
    share_outside_rank_four,
)

SPEC = spec(1, 2)  # Scales 2 and 1.
RULE = FedHL()


def part(state: LayerState, trained: Factors, weight: float = 0.5) -> Contribution:
    """Of a client that was sent what its rank gets of this state."""
    given = sent(RULE, SPEC, state, trained.rank)
    return Contribution.of("x", weight, trained, sent=given)


def taught() -> LayerState:
    """ΔW = diag(4, 2)."""
    begun = start(RULE, SPEC)
    state = combined(RULE, SPEC, begun, part(begun, diagonal(1.0, 4.0, 2.0), 1.0)).state
    assert_close(learned(RULE, SPEC, state), torch.diag(torch.tensor([4.0, 2.0])), 1e-6)
    return state


def test_a_round_by_hand() -> None:
    """Ann's rank cuts ε² = 4 / 20 off: p ∝ 1 / 1.2 and 1, so 5/11 and 6/11."""
    state = taught()
    assert_close(product(sent(RULE, SPEC, state, 1)), torch.diag(torch.tensor([4.0, 0.0])), 1e-6)
    ann, bob = alone(0, 5.0, 2.0), diagonal(1.0, 4.0, 3.0)
    after = combined(RULE, SPEC, state, part(state, ann), part(state, bob)).state
    wanted = torch.diag(torch.tensor([4.0 + 5.0 / 11.0, 2.0 + 6.0 / 11.0]))
    assert_close(learned(RULE, SPEC, after), wanted, 1e-6)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_a_change_that_a_screen_shrank_has_the_weight_of_its_own_rank(share: float) -> None:
    """It comes in at both ranks, stacked: 1 + 1."""
    state = taught()
    given = sent(RULE, SPEC, state, 1)
    ann = shrunk(alone(0, 5.0, 2.0), given, share, as_factors=False)
    assert ann.rank == 2
    parts = (Contribution.of("ann", 0.5, ann, sent=given), part(state, diagonal(1.0, 4.0, 3.0)))
    after = combined(RULE, SPEC, state, *parts).state
    wanted = torch.diag(torch.tensor([4.0 + share * 5.0 / 11.0, 2.0 + 6.0 / 11.0]))
    assert_close(learned(RULE, SPEC, after), wanted, 1e-6)


def test_nothing_that_was_not_sent_is_lost() -> None:
    state = after_a_flat_update(RULE)
    before = learned_of(RULE, state)[LAYER.name]
    for _ in range(20):
        state = Round(RULE, state, COHORT, nothing, EQUAL).combined()
    after = learned_of(RULE, state)[LAYER.name]
    assert share_outside_rank_four(after) == pytest.approx(0.9375, abs=1e-4)
    assert_close(after, before, 1e-5)
