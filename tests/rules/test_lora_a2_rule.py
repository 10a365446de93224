"""LoRA-A²: one side a round, and of it the parts that moved most."""

from __future__ import annotations

import pytest
import torch

from flexlora.adapters import Adapter, Factors
from flexlora.laws.round import Train
from flexlora.rules import State
from flexlora.rules.lora_a2 import LoRAA2
from reference import Round, assert_close, dense, generator, learned, play
from rules.by_hand import NAME, spec

SPEC = spec(1, 3, m=3, n=3, alpha=3.0)
RULE = LoRAA2()
UNKNOWN = torch.finfo(torch.float32).max


def begun() -> State:
    """A = diag(1, 2, 4)."""
    state = RULE.init(SPEC, generator())
    layer = {**state.layers[NAME], "a": torch.diag(torch.tensor([1.0, 2.0, 4.0]))}
    return State(SPEC, 0, {NAME: layer})


def adding(size: float) -> Train:
    """Training that adds `size` to the first entry of every part that it trains."""

    def train(_client: str, given: Adapter) -> Adapter:
        f = given[NAME]
        b, a = f.b.clone(), f.a.clone()
        b[0] += size
        a[:, 0] += size
        return Adapter({NAME: Factors(b, a, f.scale)})

    return train


def played(state: State, ranks: dict[str, int], size: float) -> State:
    cohort = {client: {NAME: rank} for client, rank in ranks.items()}
    return play(RULE, state, cohort, adding(size))


def test_odd_rounds_move_b_and_even_rounds_a() -> None:
    state = begun()
    for round in range(1, 5):
        after = played(state, {"ann": 1, "bob": 3}, 1.0)
        assert RULE.trains(round) == ("b" if round % 2 else "a")
        rests = "a" if round % 2 else "b"
        assert torch.equal(after.layers[NAME][rests], state.layers[NAME][rests])
        moves = "b" if round % 2 else "a"
        assert not torch.equal(after.layers[NAME][moves], state.layers[NAME][moves])
        state = after


def test_a_round_by_hand() -> None:
    """Ann (weight 1/4) trains the first part, bob (3/4) all: b₁ += 1/4 + 3/4, b₂ and b₃ += 3/4."""
    cohort = {"ann": {NAME: 1}, "bob": {NAME: 3}}
    round = Round(RULE, begun(), cohort, adding(1.0), {"ann": 1, "bob": 3})
    state = round.combined()
    layer = state.layers[NAME]
    assert layer["b"].tolist() == [[1.0, 0.75, 0.75], [0.0] * 3, [0.0] * 3]
    # ‖Δb‖ ‖a‖ of who trained it, their mean.
    assert layer["score"].tolist() == [1.0, 2.0, 4.0]
    assert_close(dense(state.delta.layers[NAME]), learned(RULE, state)[NAME], 1e-6)
    # Then A of the third part, of largest score, is what a client of rank 1 trains.
    given = RULE.send(state, {NAME: 1}, generator())[NAME]
    assert (given.a.tolist(), given.scale) == ([[0.0, 0.0, 4.0]], 1.0)


def test_parts_that_nobody_tried_come_first_and_then_those_that_moved_most() -> None:
    """Where all clients have rank 1 at last every part is trained, on both sides."""
    state, tried = begun(), []
    for _ in range(6):
        given = RULE.send(state, {NAME: 1}, generator())[NAME]
        tried.append(int(given.a[0].abs().argmax()))
        state = played(state, {"ann": 1}, 1.0 / (state.round + 1))
    # Odd rounds try 0, 1, 2; even ones have a gradient only where B is not zero any more.
    assert tried[0::2] == [0, 1, 2]
    assert tried[1] == 0
    assert bool(state.layers[NAME]["b"].any(dim=0).all())
    scores = state.layers[NAME]["score"]
    assert bool((scores > 0.0).all())
    assert bool((scores < UNKNOWN).all())
    best = int(scores.argmax())
    assert torch.equal(
        RULE.send(state, {NAME: 1}, generator())[NAME].a[0], state.layers[NAME]["a"][best]
    )


def test_a_part_without_a_gradient_is_not_counted_as_tried() -> None:
    """In round 2 a client of rank 3 trains A of two parts whose B is zero: nothing moves them."""
    state = played(played(begun(), {"ann": 1}, 1.0), {"bob": 3}, 0.0)
    assert state.layers[NAME]["score"].tolist() == pytest.approx([0.0, UNKNOWN, UNKNOWN])


def test_a_step_is_as_wide_as_what_moved() -> None:
    state = played(begun(), {"ann": 3}, 1.0)
    after = played(state, {"ann": 1}, 0.5)
    update = after.delta.since(1)
    assert update is not None
    assert (update.start, update.layers[NAME].width) == (1, 1)
    step = dense(after.delta.layers[NAME]) - dense(state.delta.layers[NAME])
    assert_close(dense(update.layers[NAME]), step, 1e-6)
