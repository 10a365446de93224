"""RB-LoRA: balanced means of components, then their product."""

from __future__ import annotations

import torch

from flexlora.rules import Rule, make_rule
from flexlora.rules.rb_lora import RBLoRA
from reference import assert_close, product
from rules.by_hand import alone, combined, learned, made, sent, spec, start

SPEC = spec(1, 2)  # Scales 2 and 1.
ANN = made([[1], [0]], [[0, 2]], 2.0)
BOB = made([[3, 0], [0, 2]], [[1, 0], [0, 1]], 1.0)


def learned_by(rule: Rule) -> torch.Tensor:
    state = combined(rule, SPEC, start(rule, SPEC), (0.5, ANN), (0.5, BOB)).state
    return learned(rule, SPEC, state)


def test_components_are_averaged_side_by_side_over_their_owners() -> None:
    """b₁ = (2 · 1 + 3) / 2, a₁ = (0, 2) / 2 + (1, 0) / 2; the second is bob's alone."""
    assert_close(learned_by(RBLoRA()), torch.tensor([[1.25, 2.5], [0.0, 2.0]]), 1e-6)
    # With the same weights on products: 2 (0, 2) / 2 + 3 (1, 0) / 2.
    assert_close(learned_by(make_rule("raflora")), torch.tensor([[1.5, 2.0], [0.0, 2.0]]), 1e-6)


def test_a_client_is_sent_the_best_part_at_the_scale_of_its_rank() -> None:
    rule = RBLoRA()
    state = combined(rule, SPEC, start(rule, SPEC), (0.5, ANN), (0.5, BOB)).state
    whole = learned(rule, SPEC, state)
    u, s, vh = torch.linalg.svd(whole)
    for rank, scale in ((1, 2.0), (2, 1.0)):
        given = sent(rule, SPEC, state, rank)
        assert given.scale == scale
        assert_close(product(given), (u[:, :rank] * s[:rank]) @ vh[:rank], 1e-5)


def test_what_no_client_of_a_round_owns_is_lost() -> None:
    rule = RBLoRA()
    state = combined(rule, SPEC, start(rule, SPEC), (0.5, ANN), (0.5, BOB)).state
    state = combined(rule, SPEC, state, (1.0, alone(0, 2.5, 2.0))).state
    assert_close(learned(rule, SPEC, state), torch.diag(torch.tensor([2.5, 0.0])), 1e-6)
