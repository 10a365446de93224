"""raFLoRA: each slice over its owners, so that high ranks do not die."""

from __future__ import annotations

import pytest
import torch

from flexlora.rules import make_rule
from flexlora.rules.raflora import RaFLoRA
from reference import Round, assert_close, learned, nothing
from rules import by_hand
from rules.by_hand import alone, combined, diagonal, spec, start
from rules.test_increment_rule import (
    COHORT,
    EQUAL,
    LAYER,
    after_a_flat_update,
    share_outside_rank_four,
    shares,
)

SPEC = spec(1, 2)  # Scales 2 and 1.
ROUND = ((0.5, alone(0, 2.0, 2.0)), (0.5, diagonal(1.0, 3.0, 2.0)))


def test_a_slice_is_weighed_by_its_owners() -> None:
    """First: 2 / 2 + 3 / 2; second, of one owner: 2, where FlexLoRA has 2 / 2."""
    for name, wanted in (("raflora", [2.5, 2.0]), ("flexlora", [2.5, 1.0])):
        rule = make_rule(name)
        state = combined(rule, SPEC, start(rule, SPEC), *ROUND).state
        assert_close(by_hand.learned(rule, SPEC, state), torch.diag(torch.tensor(wanted)), 1e-6)


def test_what_no_client_of_a_round_owns_is_lost() -> None:
    rule = RaFLoRA()
    state = combined(rule, SPEC, start(rule, SPEC), *ROUND).state
    state = combined(rule, SPEC, state, (1.0, alone(0, 2.5, 2.0))).state
    assert_close(by_hand.learned(rule, SPEC, state), torch.diag(torch.tensor([2.5, 0.0])), 1e-6)


def test_nothing_collapses_where_flexlora_does() -> None:
    """Ranks 4, 4, 8, 8, 16, 16, 32, 64 and 64 equal singular values: 15/16 outside rank 4."""
    assert shares(make_rule("flexlora"), (20,)) == pytest.approx([0.0], abs=2e-3)
    rule = RaFLoRA()
    state = after_a_flat_update(rule)
    before = learned(rule, state)[LAYER.name]
    for _ in range(20):
        state = Round(rule, state, COHORT, nothing, EQUAL).combined()
    after = learned(rule, state)[LAYER.name]
    assert share_outside_rank_four(after) == pytest.approx(0.9375, abs=1e-4)
    assert_close(after, before, 1e-4)
