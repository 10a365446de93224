"""The client's half: what it returns, and what it remembers."""

from __future__ import annotations

import torch

from contracts.cases import (
    LAYERS,
    LOW,
    MIXED,
    WHOLE,
    begun,
    every,
    shared,
    tensors_of,
    trained,
    uniform,
)
from flexlora.rules import Rule
from reference import Round, generator, random_training


@every()
def test_a_client_returns_the_sides_that_it_is_asked_for(rule: Rule) -> None:
    for round_ in (1, 2, 3, 4):
        sent = rule.send(trained(rule, rounds=round_ - 1), uniform(LOW), generator(1), "ann")
        received = rule.receive(sent, {})
        encoded = rule.reply(round_, random_training(1)("ann", received), received, {})
        for name, factors in encoded.adapter.items():
            assert factors.sides == rule.returns(round_)
            assert factors.shape == sent[name].shape


@every(lambda rule: rule.traits.origin)
def test_an_origin_rule_trains_what_it_was_sent(rule: Rule) -> None:
    """Δ holds that, and nothing else is subtracted."""
    sent = rule.send(trained(rule), uniform(3), generator(1))
    received = rule.receive(sent, {})
    assert all(map(torch.equal, tensors_of(received), tensors_of(sent)))


@every(shared)
def test_without_the_trait_nothing_is_remembered(rule: Rule) -> None:
    round = Round(rule, trained(rule), MIXED, random_training(5), seed=5)
    assert not any(round.remembered.values())


@every(lambda rule: rule.traits.memory)
def test_what_is_remembered_is_ones_own_and_never_leaves(rule: Rule) -> None:
    state = trained(rule)
    round = Round(rule, state, MIXED, random_training(5), seed=5)
    own = list(round.remembered["ann"].values())
    assert own
    for reply in round.replies.values():
        for tensor in tensors_of(reply):
            assert not any(tensor.shape == x.shape and torch.equal(tensor, x) for x in own)
    # Coming again, it goes on from there, and nobody else does.
    after, sent = round.combined(), round.sent["ann"]
    sent = rule.send(after, rule.ranks_for(after.spec, MIXED["ann"]), generator(6), "ann")
    new, again = rule.receive(sent, {}), rule.receive(sent, round.remembered["ann"])
    other = rule.receive(sent, round.remembered["bob"])
    assert not all(map(torch.equal, tensors_of(new), tensors_of(again)))
    assert not all(map(torch.equal, tensors_of(other), tensors_of(again)))


@every(lambda rule: rule.traits.memory)
def test_a_memory_of_other_ranks_does_no_harm(rule: Rule) -> None:
    """As it is in a continued run whose ranks were changed."""
    wide = Round(rule, begun(rule, WHOLE), WHOLE, random_training(1))
    state = begun(rule)
    sent = rule.send(state, rule.ranks_for(state.spec, MIXED["ann"]), generator(), "ann")
    received = rule.receive(sent, wide.remembered["ann"])
    assert received.ranks == sent.ranks
    assert {name: f.shape for name, f in received.items()} == {x.name: (x.m, x.n) for x in LAYERS}
