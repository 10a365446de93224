"""Combining: what a round's contributions become, and what they cannot change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from contracts.cases import (
    CUT,
    FULL,
    LAYERS,
    LOW,
    MIXED,
    WHOLE,
    begun,
    by_product,
    every,
    outcome,
    shared,
    tensors_of,
    trained,
    uniform,
)
from flexlora.adapters import Adapter, Factors
from flexlora.errors import RuleError
from flexlora.lowrank import Matrix
from flexlora.rules import Combined, Contribution, Contributions, Layer, LayerState, Listed, Rule
from flexlora.rules.flexlora import FlexLoRA
from reference import (
    Round,
    assert_all_close,
    assert_close,
    at,
    dense,
    gaussian,
    generator,
    learned,
    map_factors,
    nothing,
    play,
    product,
    products,
    random_training,
)


@every(lambda rule: not by_product(rule))
def test_the_order_of_clients_changes_no_factor_beyond_rounding(rule: Rule) -> None:
    """The law of that name asks it of products, of every rule."""
    round = Round(rule, trained(rule), MIXED, random_training(7), seed=7)
    forward = outcome(rule, round.combined(sorted(MIXED)))
    assert_all_close(outcome(rule, round.combined(sorted(MIXED, reverse=True))), forward)
    assert_all_close(outcome(rule, round.combined(["cyd", "ann", "dan", "bob"])), forward)


@every()
def test_every_client_counts(rule: Rule) -> None:
    """The laws would hold of a rule that ignores its clients, too."""
    round = Round(rule, trained(rule), MIXED, random_training(7), seed=7)
    everybody = outcome(rule, round.combined())
    for absent in MIXED:
        others = outcome(rule, round.combined([c for c in MIXED if c != absent]))
        assert any(
            float((others[n] - everybody[n]).norm()) > 1e-3 * float(everybody[n].norm())
            for n in everybody
        )


class Told(Contributions):
    """Those of a round, and whether every client's part was asked for."""

    def __init__(self, whole: Contributions) -> None:
        self.whole, self.shape, self.width = whole, whole.shape, whole.width
        self.asked = False

    def sum(self, rank: int | None = None) -> Matrix:
        return self.whole.sum(rank)

    def mean_factors(self) -> Factors:
        return self.whole.mean_factors()

    def shares(self, rank: int) -> torch.Tensor:
        return self.whole.shares(rank)

    def each(self) -> Sequence[Contribution]:
        self.asked = True
        return self.whole.each()


@every()
def test_no_more_and_no_less_is_asked_for_than_the_traits_say(rule: Rule) -> None:
    """A rule that could do with sums and declares more shuts itself out of secure collecting."""
    given: list[Told] = []

    class Telling(type(rule)):  # type: ignore[misc]
        def combine_layer(
            self, layer: Layer, state: LayerState, contributions: Contributions
        ) -> Combined:
            given.append(Told(contributions))
            return super().combine_layer(layer, state, given[-1])

    telling = object.__new__(Telling)
    telling.__dict__.update(rule.__dict__)
    Round(telling, trained(rule), MIXED, random_training(5), seed=5).combined()
    assert len(given) == len(LAYERS)
    for contributions in given:
        assert contributions.asked == (rule.traits.needs == "each")
        if rule.traits.needs == "sum":
            with pytest.raises(RuleError, match=r"traits say needs='sum'; declare needs='each'"):
                contributions.each()


def test_a_rule_that_asks_for_what_it_did_not_declare_fails() -> None:
    class Nosy(FlexLoRA):  # type: ignore[misc]  # It is final.
        def combine_layer(
            self, layer: Layer, state: LayerState, contributions: Contributions
        ) -> Combined:
            assert contributions.each()
            return super().combine_layer(layer, state, contributions)

    with pytest.raises(RuleError, match="rule flexlora asked for every client's contribution"):
        play(Nosy(), begun(Nosy()), MIXED, nothing)


@every(lambda r: by_product(r) and r.traits.needs == "sum" and r.traits.exact)
def test_combining_is_linear_in_the_contributions(rule: Rule) -> None:
    """Two groups combined apart, then averaged by their weights, are all combined at once.

    A rule may cut the sum to the federation's highest rank; here that is a full one.
    """
    state = trained(rule)
    spec = replace(state.spec, highest={x.name: min(x.m, x.n) for x in state.spec.layers})
    round = Round(rule, replace(state, spec=spec), MIXED, random_training(5), seed=5)
    groups = (["ann", "dan"], ["bob", "cyd"])
    parts = [learned(rule, round.combined(group)) for group in groups]
    shares = [sum(round.weights[client] for client in group) for group in groups]
    wanted = {n: shares[0] * parts[0][n] + shares[1] * parts[1][n] for n in FULL}
    assert_all_close(learned(rule, round.combined()), wanted)


@every(lambda r: not by_product(r) and r.traits.needs == "sum" and r.traits.delta != "residual")
def test_combining_is_linear_in_the_factors(rule: Rule) -> None:
    round = Round(rule, trained(rule), MIXED, random_training(5), seed=5)
    groups = (["ann", "dan"], ["bob", "cyd"])
    parts = [outcome(rule, round.combined(group)) for group in groups]
    shares = [sum(round.weights[client] for client in group) for group in groups]
    wanted = {n: shares[0] * parts[0][n] + shares[1] * parts[1][n] for n in parts[0]}
    assert_all_close(outcome(rule, round.combined()), wanted)


@every()
def test_nothing_trained_before_the_first_round_leaves_the_base(rule: Rule) -> None:
    state = play(rule, begun(rule), MIXED, nothing)
    for matrix in [*learned(rule, begun(rule)).values(), *learned(rule, state).values()]:
        assert float(matrix.norm()) == 0.0
    assert all(float(dense(x).norm()) == 0.0 for x in state.delta.layers.values())


@every()
def test_nothing_trained_at_full_rank_leaves_what_is_learned(rule: Rule) -> None:
    state = trained(rule, WHOLE)
    before = learned(rule, state)
    assert rule.traits.memory or all(float(matrix.norm()) > 0.1 for matrix in before.values())
    for seed in range(3):
        state = play(rule, state, WHOLE, nothing, seed)
    assert_all_close(learned(rule, state), before)


@every(lambda rule: rule.traits.delta != "none")
def test_nothing_trained_at_any_rank_leaves_what_is_learned(rule: Rule) -> None:
    state = trained(rule)
    before = learned(rule, state)
    for seed in range(3):
        state = play(rule, state, MIXED, nothing, seed)
    assert_all_close(learned(rule, state), before)


@every(lambda rule: shared(rule) and rule.traits.exact)
def test_identical_clients_at_full_rank_get_back_what_they_sent(rule: Rule) -> None:
    state = trained(rule, WHOLE)
    same = random_training(9)
    round = Round(rule, state, WHOLE, lambda _, sent: same("all", sent), seed=9)
    sent = products(round.replies["ann"].filled(round.received["ann"]))
    if rule.traits.origin:
        before, given = learned(rule, state), products(round.sent["ann"])
        sent = {name: before[name] + sent[name] - given[name] for name in sent}
    elif rule.traits.delta == "restart":
        sent = {name: sent[name] + matrix for name, matrix in learned(rule, state).items()}
    elif rule.traits.delta == "residual":
        held = state.delta.layers
        sent = {name: sent[name] + dense(held[name]) for name in sent}
    assert_all_close(learned(rule, round.combined()), sent)


@every()
def test_contributions_of_zero_leave_finite_numbers(rule: Rule) -> None:
    def emptied(f: Factors) -> Factors:
        return Factors(torch.zeros_like(f.b), torch.zeros_like(f.a), f.scale)

    for start in (begun(rule), trained(rule)):
        state = play(rule, start, MIXED, lambda _, sent: map_factors(sent, emptied))
        state = play(rule, state, MIXED, random_training(3), seed=3)
        asked = [rule.ranks_for(state.spec, ranks) for ranks in MIXED.values()]
        sends = [rule.send(state, ranks, generator()) for ranks in asked]
        for tensor in tensors_of(state, *sends):
            assert bool(torch.isfinite(tensor).all())


@every(lambda rule: rule.traits.exact)
def test_half_precision_replies_are_combined_in_float32(rule: Rule) -> None:
    """A thousand equal replies average to one of them, not to what bf16 sums round to."""
    state = begun(rule, CUT)
    spec, layer = state.spec, at(state.spec)
    sent = rule.send(state, rule.ranks_for(spec, uniform(LOW)), generator())[layer.name]
    b, a = gaussian(layer.m, sent.rank).bfloat16(), gaussian(sent.rank, layer.n, seed=1).bfloat16()
    received = rule.receive(Adapter({layer.name: sent}), {})[layer.name]
    reply = Factors(b, a, sent.scale).only(rule.returns(1))
    reply = reply.filled(sent) if rule.leaves_the_rest(1) else reply
    origin = sent if rule.traits.origin else None
    contributions = Listed(
        [Contribution.of(f"{i:04d}", 1e-3, reply, origin, sent) for i in range(1000)]
    )
    result = rule.combine(layer, state.layers[layer.name], contributions)
    learned_ = dense(rule.learned_layer(layer, result.state))
    assert_close(learned_, product(reply.filled(received)), 1e-4)
    floats = [tensor for tensor in result.state.values() if tensor.is_floating_point()]
    assert all(tensor.dtype == torch.float32 for tensor in floats)
