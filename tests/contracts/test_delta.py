"""Δ: what a step adds to it, and what clients begin from beside it."""

from __future__ import annotations

import pytest
import torch

from contracts.cases import HIGH, MIXED, begun, by_product, every, trained
from flexlora.rules import Rule
from reference import (
    Round,
    assert_close,
    best,
    dense,
    generator,
    learned,
    play,
    product,
    random_training,
    tail_norm,
)


@every()
def test_a_step_is_what_was_added_to_delta(rule: Rule) -> None:
    before = trained(rule)
    after = play(rule, before, MIXED, random_training(4), seed=4)
    if not after.delta.layers:
        assert rule.traits.delta == "none"
        return
    assert after.delta.version == before.delta.version + 1
    for patch in (p for p in after.delta.patches if p.version == after.delta.version):
        for name, step in patch.layers.items():
            total = dense(before.delta.layers[name]) + dense(step)
            assert_close(dense(after.delta.layers[name]), total)


@every(lambda rule: rule.traits.delta == "restart")
def test_a_restart_puts_all_that_is_learned_into_delta(rule: Rule) -> None:
    state = trained(rule)
    for name, matrix in learned(rule, state).items():
        assert_close(dense(state.delta.layers[name]), matrix)
    for ranks in MIXED.values():
        for factors in rule.receive(rule.send(state, ranks, generator(3)), {}).values():
            assert float(product(factors).norm()) == 0.0


@every(lambda rule: rule.traits.delta == "residual")
def test_beside_a_residual_clients_begin_at_what_is_learned(rule: Rule) -> None:
    """W₀ + Δ + sent is W₀ + learned, and what they learn is added to it exactly."""
    state = trained(rule)
    for ranks in MIXED.values():
        sent = rule.send(state, rule.ranks_for(state.spec, ranks), generator())
        for name, matrix in learned(rule, state).items():
            assert_close(dense(state.delta.layers[name]) + product(sent[name]), matrix)
    round = Round(rule, state, MIXED, random_training(9), seed=9)
    moved = learned(rule, round.combined())
    for name, matrix in learned(rule, state).items():
        steps = [
            round.weights[client] * (product(reply[name]) - product(round.sent[client][name]))
            for client, reply in round.replies.items()
        ]
        assert_close(moved[name], matrix + sum(steps))


@every(lambda rule: rule.traits.origin)
def test_an_origin_rule_starts_every_client_from_what_is_learned(rule: Rule) -> None:
    """W₀ + Δ + trainable − origin is W₀ + learned, or its best part of the rank Δ is bounded to."""
    state = begun(rule)
    bound = getattr(rule, "frozen_rank", None)
    for seed in range(1, 5):
        everything = learned(rule, state)
        for ranks in MIXED.values():
            sent = rule.send(state, ranks, generator(seed))
            for name, factors in sent.items():
                frozen = state.delta.layers.get(name)
                start = torch.zeros(everything[name].shape) if frozen is None else dense(frozen)
                whole = everything[name]
                wanted = whole if bound is None else best(whole, max(bound, HIGH))
                # The client sees all of it although it trains only the top …
                assert_close(start, wanted, 1e-4)
                if not by_product(type(rule)):
                    continue
                # … and Δ holds the origin: what is left without it is the tail alone.
                left = float((start - product(factors)).norm())
                assert left == pytest.approx(tail_norm(wanted, ranks[name]), abs=1e-4)
        state = play(rule, state, MIXED, random_training(seed), seed)
