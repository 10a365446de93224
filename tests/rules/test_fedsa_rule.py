"""FedSA-LoRA: A is shared, B stays."""

from __future__ import annotations

import torch

from flexlora.adapters import Adapter, Factors
from flexlora.rules.fedsa import FedSALoRA
from reference import Round, assert_close, generator
from rules.by_hand import NAME, spec

SPEC = spec(1, 2, alpha=1.0)
COHORT = {"ann": {NAME: 1}, "bob": {NAME: 2}}
RULE = FedSALoRA()


def train(client: str, given: Adapter) -> Adapter:
    """A becomes the client's own row; to B its number is added."""
    f = given[NAME]
    row, number = {"ann": ([[4.0, 0.0]], 1.0), "bob": ([[0.0, 8.0]], 10.0)}[client]
    return Adapter({NAME: Factors(f.b + number, torch.tensor(row), f.scale)})


def test_a_is_averaged_and_every_client_goes_on_with_its_own_b() -> None:
    state = RULE.init(SPEC, generator())
    first = Round(RULE, state, COHORT, train, {"ann": 1, "bob": 3})
    state = first.combined()
    assert_close(state.layers[NAME]["a"], torch.tensor([[1.0, 6.0]]), 1e-6)
    assert not bool(state.layers[NAME]["b"].any())
    for client, number in (("ann", 1.0), ("bob", 10.0)):
        assert first.replies[client][NAME].sides == "a"
        assert first.remembered[client][NAME].tolist() == [[number], [number]]
    second = Round(RULE, state, COHORT, train, {"ann": 1, "bob": 3}, memories=first.remembered)
    for client, number in (("ann", 1.0), ("bob", 10.0)):
        received = second.received[client][NAME]
        assert received.b.tolist() == [[number], [number]]
        assert torch.equal(received.a, state.layers[NAME]["a"])
        assert second.remembered[client][NAME].tolist() == [[2 * number], [2 * number]]


def test_who_comes_anew_or_at_another_rank_begins_at_what_the_server_keeps() -> None:
    state = Round(RULE, RULE.init(SPEC, generator()), COHORT, train).combined()
    given = RULE.send(state, {NAME: 1}, generator())
    for memory in ({}, {NAME: torch.ones(2, 2)}):
        assert not bool(RULE.receive(given, memory)[NAME].b.any())
    assert RULE.receive(given, {NAME: torch.ones(2, 1)})[NAME].b.tolist() == [[1.0], [1.0]]
