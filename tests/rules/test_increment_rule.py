"""The increment form keeps what FlexLoRA loses: directions above the smallest rank, small steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flexlora.adapters import Adapter, Factors, LayerSpec
from flexlora.formats.delta import update_payload
from flexlora.formats.payloads import byte_count
from flexlora.lowrank import LowRank
from flexlora.rules import ClientView, Contribution, Listed, Rule, Spec, State, make_rule
from reference import (
    Round,
    assert_close,
    at,
    dense,
    gaussian,
    generator,
    learned,
    nothing,
    play,
    random_training,
)

SIZE = 64
LAYER = LayerSpec("q_proj", SIZE, SIZE)
RANKS = (4, 4, 8, 8, 16, 16, 32, 64)
COHORT = {f"client{i}": {LAYER.name: rank} for i, rank in enumerate(RANKS)}
EQUAL = dict.fromkeys(COHORT, 10)
# For the contract tests, beside the default.
OPTIONS = [
    {"frozen_rank": 3},
    {"split": "balanced"},
    *({"directions": how} for how in ("top", "drawn", "fresh")),
]


def orthogonal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.linalg.qr(gaussian(rows, columns, seed=seed)).Q


def after_a_flat_update(rule: Rule) -> State:
    """The state after one client of full rank taught 64 equal singular values."""

    def teach(_client: str, sent: Adapter) -> Adapter:
        scale = sent[LAYER.name].scale
        flat = Factors(orthogonal(SIZE, SIZE, 1) / scale, orthogonal(SIZE, SIZE, 2), scale)
        return Adapter({LAYER.name: flat})

    state = rule.init(Spec.of([LAYER], list(COHORT.values())), generator())
    return play(rule, state, {"client7": COHORT["client7"]}, teach)


def share_outside_rank_four(matrix: Tensor) -> float:
    squares = torch.linalg.svdvals(matrix).square()
    return float(squares[4:].sum() / squares.sum())


def shares(rule: Rule, rounds: tuple[int, ...]) -> list[float]:
    """The share of energy outside rank 4 after these rounds without any training."""
    state, found = after_a_flat_update(rule), []
    for played in range(max(rounds) + 1):
        if played > 0:
            state = Round(rule, state, COHORT, nothing, EQUAL).combined()
        if played in rounds:
            found.append(share_outside_rank_four(learned(rule, state)[LAYER.name]))
    return found


def test_flexlora_collapses_to_the_smallest_rank() -> None:
    found = shares(make_rule("flexlora"), (0, 1, 5, 20))
    assert found == pytest.approx([0.9375, 0.590, 0.055, 0.0], abs=2e-3)


@pytest.mark.parametrize("frozen_rank", [None, 4])
def test_the_increment_form_multiplies_what_it_did_not_send_by_one(
    frozen_rank: int | None,
) -> None:
    rule = make_rule("flexlora-increment", {"frozen_rank": frozen_rank})
    state = after_a_flat_update(rule)
    before = learned(rule, state)[LAYER.name]
    assert share_outside_rank_four(before) == pytest.approx(0.9375, abs=1e-4)
    for _ in range(20):
        state = Round(rule, state, COHORT, nothing, EQUAL).combined()
    assert_close(learned(rule, state)[LAYER.name], before, 1e-5)


@pytest.mark.parametrize("step", [0.1, 1e-3, 1e-4])
def test_steps_smaller_than_what_is_sent_add_up(step: float) -> None:
    """Fifty steps in a direction far below the smallest singular value that is sent (7)."""
    layer = LayerSpec("up_proj", 400, 300)
    rule = make_rule("flexlora-increment")
    u, v = orthogonal(layer.m, 5, 1), orthogonal(layer.n, 5, 2).T
    values = torch.tensor([10.0, 9.0, 8.0, 7.0])
    spec = Spec.of([layer], [{layer.name: 4}])
    state = rule.init(spec, generator()).layers[layer.name]
    taught = Factors(u[:, :4] * values, v[:4], 1.0)
    state = rule.combine(at(spec), state, Listed([Contribution.of("k", 1.0, taught)])).state
    for _ in range(50):
        sent = rule.send_layer(at(spec), state, ClientView("", {layer.name: 4}))
        b = torch.cat([sent.b, u[:, 4:] * step / sent.scale], dim=1)
        moved = Factors(b, torch.cat([sent.a, v[4:]]), sent.scale)
        moves = Listed([Contribution.of("k", 1.0, moved, sent)])
        state = rule.combine(at(spec), state, moves).state
    whole = dense(rule.learned_layer(at(spec), state))
    assert float(u[:, 4].double() @ whole @ v[4].double()) == pytest.approx(50 * step, rel=0.01)
    assert state["s"][:4].tolist() == pytest.approx(values.tolist(), rel=1e-4)


def test_a_round_adds_the_weighted_increments() -> None:
    rule = make_rule("flexlora-increment")
    state = after_a_flat_update(rule)
    round = Round(rule, state, COHORT, random_training(3, 0.01), seed=3)
    wanted = learned(rule, state)[LAYER.name]
    for client, weight in round.weights.items():
        reply, sent = round.replies[client][LAYER.name], round.sent[client][LAYER.name]
        change = reply.b.double() @ reply.a.double() - sent.b.double() @ sent.a.double()
        wanted = wanted + weight * reply.scale * change
    assert_close(learned(rule, round.combined())[LAYER.name], wanted, 1e-5)


def test_the_frozen_part_is_bounded_but_never_below_a_clients_rank() -> None:
    low = {"a": {LAYER.name: 4}, "b": {LAYER.name: 6}}
    for frozen_rank, width in ((1, 6), (10, 10)):
        rule = make_rule("flexlora-increment", {"frozen_rank": frozen_rank})
        state = rule.init(Spec.of([LAYER], list(low.values())), generator())
        for seed in range(5):
            state = play(rule, state, low, random_training(seed), seed)
        assert rule.learned(state)[LAYER.name].width > 10
        assert state.delta.layers[LAYER.name].width == width
        assert state.delta.patches == ()


def sent_of(how: str, rank: int, seed: int) -> Factors:
    rule = make_rule("flexlora-increment", {"directions": how})
    state = after_a_steep_update(rule)
    return rule.send(state, {LAYER.name: rank}, generator(seed))[LAYER.name]


def after_a_steep_update(rule: Rule) -> State:
    """Eight directions, the axes, of singular values 8, 7, … 1."""
    spec = Spec.of([LAYER], list(COHORT.values()))
    left = torch.eye(SIZE)[:, :8] * torch.arange(8.0, 0.0, -1.0)
    return rule.warm_start(spec, {LAYER.name: LowRank(left, torch.eye(SIZE)[:8])}, generator())


def axes(factors: Factors) -> list[int]:
    """Which of the eight are sent, by the rows of A that have a column of B."""
    trained = factors.b.norm(dim=0) > 0
    return sorted(int(row.abs().argmax()) for row in factors.a[trained])


def test_what_clients_train_is_the_top_drawn_half_new_or_new() -> None:
    assert axes(sent_of("top", 4, 1)) == [0, 1, 2, 3]
    assert axes(sent_of("half", 4, 1)) == [0, 1]
    assert axes(sent_of("half", 1, 1)) == []  # One direction is a new one each round.
    assert axes(sent_of("fresh", 4, 1)) == []
    drawn = [axes(sent_of("drawn", 4, seed)) for seed in range(20)]
    assert all(len(set(x)) == 4 for x in drawn)
    assert len({tuple(x) for x in drawn}) > 5
    counts = [sum(i in x for x in drawn) for i in range(8)]
    assert sum(counts[:4]) > sum(counts[4:]) > 0  # By singular value.
    assert axes(sent_of("drawn", 16, 1)) == list(range(8))  # All that there are.


@pytest.mark.parametrize("how", ["half", "fresh"])
def test_new_directions_are_new_each_round_and_shared_by_all_ranks(how: str) -> None:
    one, again, other = (sent_of(how, 4, seed) for seed in (1, 1, 2))
    assert torch.equal(one.a, again.a)
    assert not torch.equal(one.a[2:], other.a[2:])
    wide = sent_of("fresh", 8, 1)
    assert torch.equal(sent_of("fresh", 4, 1).a, wide.a[:4])


@pytest.mark.parametrize(("side", "wide"), [(64, True), (512, False)])
def test_what_is_sent_is_no_more_than_what_was_learned(side: int, wide: bool) -> None:
    """By default B begins at zero: a step is as wide as its clients' ranks together, as flora's,
    and where that is more than the matrix, the matrix alone travels."""
    layer = LayerSpec("q_proj", side, side)
    cohort = {f"client{i}": {layer.name: 16} for i in range(4)}
    sizes = {}
    for name in ("flexlora-increment", "flora"):
        rule = make_rule(name)
        state = rule.init(Spec.of([layer], list(cohort.values())), generator())
        for round in range(3):
            before, state = state, play(rule, state, cohort, random_training(round))
        update = state.delta.since(before.delta.version)
        assert update is not None
        sizes[name] = byte_count(update_payload(update))
    assert sizes["flexlora-increment"] == pytest.approx(sizes["flora"], rel=0.01)
    assert sizes["flora"] < 4 * (side * side if wide else 2 * side * 64) + 500
