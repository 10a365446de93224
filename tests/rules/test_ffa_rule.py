"""FFA-LoRA: one A for all, which never travels; the mean of B is exact."""

from __future__ import annotations

import torch

from flexlora.adapters import Adapter, LayerSpec, factors_payload
from flexlora.formats.payloads import from_bytes, to_bytes
from flexlora.lowrank import LowRank
from flexlora.rules import Spec, State
from flexlora.rules.ffa import FFALoRA
from reference import (
    Round,
    assert_close,
    gaussian,
    generator,
    learned,
    play,
    product,
    random_training,
)

# For the contract tests, beside the default.
OPTIONS = [{"seed": 7}]
LAYERS = (LayerSpec("k_proj", 6, 5), LayerSpec("q_proj", 6, 5))
COHORT = {name: {x.name: rank for x in LAYERS} for name, rank in (("ann", 2), ("bob", 4))}
RULE = FFALoRA()


def begun(rule: FFALoRA = RULE) -> State:
    return rule.init(Spec.of(LAYERS, list(COHORT.values())), generator())


def rows(rule: FFALoRA, client: str, state: State, layer: str) -> torch.Tensor:
    return Round(rule, state, COHORT, random_training(1)).received[client][layer].a


def test_the_mean_of_b_is_the_exact_mean_of_products() -> None:
    state = begun()
    for seed in range(3):
        round = Round(RULE, state, COHORT, random_training(seed), {"ann": 1, "bob": 3}, seed)
        state = round.combined()
        for x in LAYERS:
            ann, bob = (round.replies[c].filled(round.received[c])[x.name] for c in ("ann", "bob"))
            assert_close(state.layers[x.name]["b"], 0.25 * ann.b + 0.75 * bob.b, 1e-6)
            exact = 0.25 * product(ann) + 0.75 * product(bob)
            assert_close(learned(RULE, state)[x.name], exact, 1e-6)


def test_a_is_the_same_for_all_in_every_round_and_other_for_every_layer_and_seed() -> None:
    first, later = begun(), play(RULE, begun(), COHORT, random_training(1))
    wanted = rows(RULE, "ann", first, "q_proj")
    assert wanted.shape == (2, 5)  # At the lowest rank.
    assert torch.equal(rows(RULE, "bob", first, "q_proj"), wanted)
    assert torch.equal(rows(RULE, "bob", later, "q_proj"), wanted)
    assert not torch.equal(rows(RULE, "ann", first, "k_proj"), wanted)
    other = FFALoRA(seed=1)
    assert not torch.equal(rows(other, "ann", begun(other), "q_proj"), wanted)


def test_a_is_never_in_what_travels_nor_in_what_the_server_keeps() -> None:
    state = play(RULE, begun(), COHORT, random_training(1))
    round = Round(RULE, state, COHORT, random_training(2))
    assert all(set(layer) == {"b"} for layer in state.layers.values())
    for given in (round.sent["bob"], round.replies["bob"]):
        tensors = from_bytes(to_bytes(factors_payload(given))).tensors
        assert {key.rpartition(".")[2] for key in tensors} == {"b"}
        assert sum(x.numel() for x in tensors.values()) == 2 * 6 * len(LAYERS)


def test_an_adapter_that_it_begins_from_keeps_its_own_a_which_goes_down_alone() -> None:
    start = {"q_proj": LowRank(gaussian(6, 2), gaussian(2, 5, seed=1))}
    state = RULE.warm_start(begun().spec, start, generator())
    round = Round(RULE, state, COHORT, random_training(2))
    sides = {name: f.sides for name, f in round.sent["ann"].items()}
    assert sides == {"k_proj": "b", "q_proj": "both"}
    returned = RULE.encode(round.received["ann"], round.sent["ann"], {}).adapter
    assert isinstance(returned, Adapter)
    assert {f.only(RULE.returns(1)).sides for f in returned.values()} == {"b"}
