"""FedHera: the increment form, with Δ shared out among layers by σ² per byte."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from flexlora.adapters import LayerSpec
from flexlora.lowrank import LowRank
from flexlora.rules import Spec, State, make_rule
from reference import assert_all_close, dense, generator, learned, play, random_training

WIDE, SMALL = LayerSpec("wide", 30, 10), LayerSpec("small", 10, 10)
SPEC = Spec((WIDE, SMALL), {"wide": 1, "small": 1}, {"wide": 1, "small": 1}, alpha=4.0)


def diagonal(layer: LayerSpec, values: list[float]) -> LowRank:
    left, right = torch.zeros(layer.m, len(values)), torch.zeros(len(values), layer.n)
    for i, value in enumerate(values):
        left[i, i], right[i, i] = value, 1.0
    return LowRank(left, right)


def started(budget: float) -> State:
    """A direction costs 160 bytes in the wide layer and 80 in the small one."""
    start = {"wide": diagonal(WIDE, [9.0, 4.0, 3.0]), "small": diagonal(SMALL, [2.0, 1.9, 1.0])}
    return make_rule("fedhera", {"budget_mb": budget / 1e6}).warm_start(SPEC, start, generator())


# σ² per byte of what is beyond the origins: .1 and .056 in the wide layer, .045 and .0125.
@pytest.mark.parametrize(
    ("budget", "wide", "small"),
    [(1, 1, 1), (399, 1, 1), (400, 2, 1), (560, 3, 1), (640, 3, 2), (719, 3, 2), (720, 3, 3)],
)
def test_directions_are_taken_by_energy_per_byte(budget: int, wide: int, small: int) -> None:
    state = started(budget)
    assert state.delta.layers["wide"].width == wide
    assert state.delta.layers["small"].width == small


def test_more_budget_never_gives_less_of_any_layer() -> None:
    widths = [
        [started(budget).delta.layers[name].width for name in ("wide", "small")]
        for budget in range(200, 900, 20)
    ]
    assert all(a <= b for one, more in pairwise(widths) for a, b in zip(one, more, strict=True))


def test_the_state_is_the_increment_forms_whatever_the_budget() -> None:
    """Δ bounds what clients see; what they change is added to all that was learned."""
    cohort = {"ann": {"wide": 1, "small": 1}}
    full = make_rule("fedhera")
    increment = make_rule("flexlora-increment", {"directions": "top"})
    states = [rule.init(SPEC, generator()) for rule in (full, increment)]
    for seed in range(1, 4):
        states = [
            play(rule, state, cohort, random_training(seed), seed)
            for rule, state in zip((full, increment), states, strict=True)
        ]
    assert_all_close(learned(full, states[0]), learned(increment, states[1]), 1e-6)
    for name, matrix in learned(full, states[0]).items():
        assert torch.allclose(dense(states[0].delta.layers[name]), matrix, atol=1e-4)
