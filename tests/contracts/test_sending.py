"""What is sent has the client's rank and can be trained; what is read out is the best of its."""

from __future__ import annotations

import pytest
import torch

from contracts.cases import (
    CUT,
    FULL,
    HIGH,
    LAYERS,
    LOW,
    MIXED,
    assert_trainable,
    begun,
    by_product,
    every,
    sends_the_top,
    tensors_of,
    trained,
    uniform,
)
from flexlora.adapters import Ranks
from flexlora.rules import Rule
from reference import (
    assert_all_close,
    assert_close,
    generator,
    learned,
    nothing,
    play,
    product,
    products,
    random_training,
    tail_norm,
)


@every()
@pytest.mark.parametrize("history", ["new", "mixed", "low ranks only", "nothing learned"])
def test_what_is_sent_has_the_clients_ranks_and_can_be_trained(rule: Rule, history: str) -> None:
    state = {
        "new": lambda: begun(rule),
        "mixed": lambda: trained(rule),
        "low ranks only": lambda: play(rule, begun(rule), CUT, random_training(1)),
        "nothing learned": lambda: play(rule, begun(rule), CUT, nothing),
    }[history]()
    for client, ranks in MIXED.items():
        asked = rule.ranks_for(state.spec, ranks)
        sent = rule.send(state, asked, generator(1), client)
        assert sent.ranks == asked
        assert {name: f.shape for name, f in sent.items()} == {x.name: (x.m, x.n) for x in LAYERS}
        received = rule.receive(sent, {})
        assert received.ranks == asked
        assert all(factors.sides == "both" for factors in received.values())
        assert_trainable(received)


@every()
def test_sends_differ_by_client_where_the_traits_say_so_and_else_by_ranks_alone(rule: Rule) -> None:
    state, ranks = trained(rule), uniform(LOW)
    one, other = (rule.send(state, ranks, generator(1), client) for client in ("ann", "bob"))
    same = all(torch.equal(x, y) for x, y in zip(tensors_of(one), tensors_of(other), strict=True))
    assert same == (rule.traits.sends == "pattern")
    again = rule.send(state, ranks, generator(1), "ann")
    assert all(map(torch.equal, tensors_of(again), tensors_of(one)))


@every(lambda r: by_product(r) and r.traits.delta in ("none", "origin") and sends_the_top(r))
def test_ranks_above_what_has_been_learned_are_filled(rule: Rule) -> None:
    """The sent product is all that has been learned, and the rest of the rank can be trained."""
    state = play(rule, begun(rule), {"ann": uniform(LOW)}, random_training(1))
    sent = rule.send(state, uniform(HIGH), generator(1))
    assert_all_close(products(sent), learned(rule, state))
    for factors in sent.values():
        assert torch.linalg.matrix_rank(factors.b) < HIGH
        assert bool((factors.a.norm(dim=1) > 1e-3).all())


@every()
def test_reading_out_has_exactly_the_asked_rank(rule: Rule) -> None:
    for state in (begun(rule), trained(rule)):
        for rank in range(1, 11):
            adapter = rule.readout(state, uniform(rank))
            assert adapter.ranks == uniform(rank)
            adapter.require_finite()


@every()
def test_the_singular_values_are_those_of_what_was_learned(rule: Rule) -> None:
    for state in (begun(rule), trained(rule)):
        found = rule.singular_values(state)
        for name, matrix in learned(rule, state).items():
            wanted = torch.linalg.svdvals(matrix)
            held = torch.zeros_like(wanted)
            held[: found[name].shape[0]] = found[name].double()
            assert_close(held, wanted, 1e-6)


@every()
def test_reading_out_at_a_rank_that_is_enough_loses_nothing(rule: Rule) -> None:
    state = trained(rule)
    assert_all_close(products(rule.readout(state, FULL)), learned(rule, state))


@every(by_product)
def test_reading_out_is_the_best_part_of_its_rank(rule: Rule) -> None:
    state = trained(rule)
    for rank in (1, 3, 6):
        for name, factors in rule.readout(state, uniform(rank)).items():
            whole = learned(rule, state)[name]
            distance = float((whole - product(factors)).norm())
            assert distance == pytest.approx(tail_norm(whole, rank), abs=1e-4)


@every()
def test_ranks_follow_the_bucket_unless_they_may_be_mixed(rule: Rule) -> None:
    spec = begun(rule).spec
    for ranks in MIXED.values():
        wanted = ranks if rule.traits.mixed_ranks else uniform(LOW)
        assert rule.ranks_for(spec, ranks) == wanted


@every()
def test_ranks_may_differ_by_layer(rule: Rule) -> None:
    """Type 3 of the paper (attention 30, MLP 200) at a twenty-fifth, beside two uniform types."""
    cohort = {
        "light": Ranks.of(30).scaled(0.04).resolve(LAYERS),
        "mixed": Ranks.of({"attention": 30, "mlp": 200}).scaled(0.04).resolve(LAYERS),
        "heavy": Ranks.of(200).scaled(0.04).resolve(LAYERS),
    }
    assert sorted(cohort["mixed"].values()) == [1, 8]
    state = trained(rule, cohort)
    for ranks in cohort.values():
        asked = rule.ranks_for(state.spec, ranks)
        assert rule.send(state, asked, generator()).ranks == asked
        assert rule.readout(state, ranks).ranks == ranks
