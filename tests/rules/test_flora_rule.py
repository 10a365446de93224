"""FLoRA: the stack is the exact weighted sum, and every round starts afresh on top of Δ."""

from __future__ import annotations

import torch

from flexlora.adapters import LayerSpec
from flexlora.rules import Spec, State, make_rule
from reference import (
    Round,
    assert_close,
    at,
    dense,
    generator,
    learned,
    play,
    product,
    random_training,
)

LAYER = LayerSpec("q_proj", 40, 30)
COHORT = {name: {LAYER.name: rank} for name, rank in {"ann": 2, "bob": 5, "cyd": 8}.items()}
RULE = make_rule("flora")


def start() -> State:
    return RULE.init(Spec.of([LAYER], list(COHORT.values())), generator())


def test_the_stack_is_the_exact_weighted_sum_of_products() -> None:
    state, wanted = start(), torch.zeros(LAYER.m, LAYER.n, dtype=torch.float64)
    for seed in range(3):
        round = Round(RULE, state, COHORT, random_training(seed), seed=seed)
        parts = (w * product(round.replies[c][LAYER.name]) for c, w in round.weights.items())
        summed = sum(parts, torch.zeros(()))
        layer = at(state.spec)
        result = RULE.combine(layer, state.layers[LAYER.name], round.contributions(LAYER.name))
        assert result.step is not None
        assert result.step.width == 2 + 5 + 8
        assert_close(dense(result.step), summed, 1e-6)
        wanted = wanted + summed
        state = round.combined()
        assert_close(learned(RULE, state)[LAYER.name], wanted, 1e-5)
        assert_close(dense(state.delta.layers[LAYER.name]), wanted, 1e-5)


def test_clients_of_all_ranks_share_the_first_rows_of_a_fresh_a() -> None:
    state = start()
    widest = RULE.send(state, COHORT["cyd"], generator(4))[LAYER.name]
    for ranks in COHORT.values():
        sent = RULE.send(state, ranks, generator(4))[LAYER.name]
        assert torch.equal(sent.a, widest.a[: sent.rank])
        assert not sent.b.any()
        assert sent.scale == 16.0 / ranks[LAYER.name]


def test_every_round_draws_a_new_a() -> None:
    state = play(RULE, start(), COHORT, random_training(1))
    first = RULE.send(state, COHORT["cyd"], generator(1))[LAYER.name].a
    second = RULE.send(state, COHORT["cyd"], generator(2))[LAYER.name].a
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_the_layers_after_one_of_another_rank_share_rows_too() -> None:
    """A lower rank in the first layer must not shift what the second layer draws."""
    layers = (LayerSpec("a", 9, 8), LayerSpec("b", 9, 8))
    low, high = {"a": 1, "b": 2}, {"a": 6, "b": 6}
    state = RULE.init(Spec.of(layers, [low, high]), generator())
    few, many = (RULE.send(state, ranks, generator(4)) for ranks in (low, high))
    assert torch.equal(few["b"].a, many["b"].a[:2])


def test_who_holds_the_last_version_is_sent_the_stack_where_that_is_smaller() -> None:
    state = start()
    for seed in range(2):
        state = play(RULE, state, {"bob": COHORT["bob"]}, random_training(seed), seed)
    patch, whole = state.delta.since(1), state.delta.since(None)
    assert patch is not None
    assert (patch.start, patch.layers[LAYER.name].width) == (1, 5)
    assert state.delta.layers[LAYER.name].width == 10
    assert whole is not None
    assert (whole.start, whole.layers) == (None, state.delta.layers)
