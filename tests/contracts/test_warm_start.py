"""A warm start: what is begun from is kept, and trains on."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from contracts.cases import (
    FULL,
    HIGH,
    LAYERS,
    LOW,
    MIXED,
    WHOLE,
    assert_trainable,
    begun,
    every,
    sends_the_top,
)
from flexlora.errors import AdapterError
from flexlora.lowrank import LowRank
from flexlora.rules import Rule, Spec, State
from reference import (
    assert_all_close,
    assert_close,
    best,
    dense,
    gaussian,
    generator,
    held_rank,
    learned,
    nothing,
    play,
    product,
    random_training,
)


def start_of(rank: int, *names: str) -> dict[str, LowRank]:
    """An update of this rank for these layers (default: all), its directions well apart."""
    return {
        x.name: LowRank(
            gaussian(x.m, rank, seed=rank) * (2.0 ** -torch.arange(rank)),
            gaussian(rank, x.n, seed=rank + 50),
        )
        for x in LAYERS
        if not names or x.name in names
    }


def warm(rule: Rule, start: Mapping[str, LowRank], seed: int = 0) -> State:
    return rule.warm_start(begun(rule).spec, start, generator(seed))


@every()
@pytest.mark.parametrize("rank", [1, LOW, HIGH, 10])
def test_a_warm_start_is_its_start_or_the_best_part_that_the_state_holds(
    rule: Rule, rank: int
) -> None:
    start = start_of(rank)
    state = warm(rule, start)
    assert state.round == 0
    for name, matrix in learned(rule, state).items():
        wanted = best(dense(start[name]), held_rank(rule, LOW, HIGH, min(FULL.values())))
        assert float(wanted.norm()) > 1.0
        assert_close(matrix, wanted)


@every(lambda r: r.traits.sends == "pattern" and r.traits.delta != "residual" and sends_the_top(r))
@pytest.mark.parametrize("rank", [1, 5, 10])
def test_clients_of_a_warm_start_begin_at_what_is_learned(rule: Rule, rank: int) -> None:
    """W₀ + Δ + sent (− sent where Δ holds it) is the best part of the start that each affords."""
    state = warm(rule, start_of(rank))
    uses_delta = rule.traits.delta != "none"
    assert state.delta.version == int(uses_delta)
    assert set(state.delta.layers) == (set(FULL) if uses_delta else set())
    bound = getattr(rule, "frozen_rank", None)
    for name, frozen in state.delta.layers.items():
        whole = learned(rule, state)[name]
        assert_close(dense(frozen), whole if bound is None else best(whole, max(bound, HIGH)))
    for ranks in MIXED.values():
        asked = rule.ranks_for(state.spec, ranks)
        received = rule.receive(rule.send(state, asked, generator(1)), {})
        assert received.ranks == asked
        assert_trainable(received)
        for name, factors in received.items():
            wanted = best(learned(rule, state)[name], asked[name])
            if rule.traits.delta == "restart":
                wanted = torch.zeros_like(wanted)
            assert_close(product(factors), wanted, 1e-4)


@every()
def test_a_warm_start_trains_on_and_forgets_nothing_by_itself(rule: Rule) -> None:
    """At full rank, nothing trained leaves the start, and training moves it."""
    spec = Spec.of(LAYERS, list(WHOLE.values()), alpha=4.0)
    state = rule.warm_start(spec, start_of(10), generator())
    before = learned(rule, state)
    assert_all_close(learned(rule, play(rule, state, WHOLE, nothing)), before)
    moved = play(rule, state, WHOLE, random_training(3), seed=3)
    assert all(
        float((matrix - before[name]).norm()) > 1e-2
        for name, matrix in learned(rule, moved).items()
    )
    if state.delta.layers:
        assert moved.delta.version == state.delta.version + 1


@every()
def test_layers_without_a_start_begin_as_ever(rule: Rule) -> None:
    cold, only = begun(rule), LAYERS[0].name
    state = warm(rule, start_of(3, only))
    for name, tensors in warm(rule, {}).layers.items():
        assert all(torch.equal(tensors[key], x) for key, x in cold.layers[name].items())
    for name, matrix in learned(rule, state).items():
        assert (float(matrix.norm()) > 0.0) == (name == only)


@every()
def test_a_start_that_does_not_fit_is_refused(rule: Rule) -> None:
    one = start_of(2)[LAYERS[0].name]
    with pytest.raises(AdapterError, match=r"layers that are not adapted: k_proj; add them to"):
        warm(rule, {"k_proj": one})
    with pytest.raises(AdapterError, match="is 20 × 10, expected 12 × 14; it was made for another"):
        warm(rule, {LAYERS[1].name: one})
    for bad in (float("nan"), float("inf")):
        with pytest.raises(AdapterError, match=f"{LAYERS[0].name} of the start holds NaN"):
            warm(rule, {LAYERS[0].name: LowRank(one.left * bad, one.right)})
    large = LowRank(one.left * 1e30, one.right * 1e30)
    with pytest.raises(AdapterError, match="holds NaN or infinity in float32"):
        warm(rule, {LAYERS[0].name: large})
