"""FlexLoRA against the paper's own procedure: dense, float64, round by round."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flexlora.adapters import Adapter, Factors, LayerSpec
from flexlora.lowrank import LowRank
from flexlora.rules import ClientView, Contribution, Listed, Spec, State, make_rule
from flexlora.screens.shrink import shrunk
from reference import (
    Round,
    assert_close,
    at,
    best,
    gaussian,
    generator,
    learned,
    map_factors,
    product,
)

LAYER = LayerSpec("q_proj", 24, 18)
RANKS = {"ann": 2, "bob": 4, "cyd": 7, "dan": 12}
EXAMPLES = {"ann": 40, "bob": 10, "cyd": 30, "dan": 20}
ALPHA, STEPS, RATE = 4.0, 3, 0.02
OPTIONS = [{"split": "balanced"}, {"retention": 0.5}]  # For the contract tests, too.


def target(client: str) -> Tensor:
    return gaussian(LAYER.m, LAYER.n, seed=ord(client[0])).double()


def descended(b: Tensor, a: Tensor, scale: float, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """A few steps of gradient descent on ½‖scale · b a − wanted‖²."""
    wanted = wanted.to(b.dtype)
    for _ in range(STEPS):
        gap = scale * b @ a - wanted
        b, a = b - RATE * scale * gap @ a.T, a - RATE * scale * b.T @ gap
    return b, a


def local_training(client: str, sent: Adapter) -> Adapter:
    return map_factors(
        sent, lambda f: Factors(*descended(f.b, f.a, f.scale, target(client)), f.scale)
    )


def papers_round(whole: Tensor | None, initial: Tensor) -> Tensor:
    """Steps 1 to 5 of the paper for all clients, in dense float64."""
    total = torch.zeros(LAYER.m, LAYER.n, dtype=torch.float64)
    for client, rank in RANKS.items():
        scale = ALPHA / rank
        if whole is None:
            b, a = torch.zeros(LAYER.m, rank, dtype=torch.float64), initial[:rank].double()
        else:
            u, s, vh = torch.linalg.svd(whole, full_matrices=False)
            b, a = u[:, :rank] * s[:rank] / scale, vh[:rank]
        b, a = descended(b, a, scale, target(client))
        total += EXAMPLES[client] / sum(EXAMPLES.values()) * scale * b @ a
    return total


def start() -> tuple[State, dict[str, dict[str, int]]]:
    cohort = {client: {LAYER.name: rank} for client, rank in RANKS.items()}
    spec = Spec.of([LAYER], list(cohort.values()), ALPHA)
    return make_rule("flexlora").init(spec, generator(3)), cohort


def test_three_rounds_equal_the_papers_dense_procedure() -> None:
    """What is kept is the best part of the highest rank: all that the paper hands out."""
    rule = make_rule("flexlora")
    state, cohort = start()
    initial = rule.send(state, {LAYER.name: 12}, generator())[LAYER.name].a
    wanted = None
    for _ in range(3):
        wanted = papers_round(wanted, initial)
        state = Round(rule, state, cohort, local_training, EXAMPLES).combined()
        assert_close(learned(rule, state)[LAYER.name], best(wanted, max(RANKS.values())), 2e-5)
    assert wanted is not None
    assert float(wanted.norm()) > 1.0


def test_all_clients_start_from_one_initial_a() -> None:
    rule = make_rule("flexlora")
    state, cohort = start()
    widest = rule.send(state, cohort["dan"], generator(8))[LAYER.name]
    for client, rank in RANKS.items():
        sent = rule.send(state, cohort[client], generator(9))[LAYER.name]
        assert torch.equal(sent.a, widest.a[:rank])
        assert not sent.b.any()
        assert sent.scale == ALPHA / rank
    assert float(widest.a.abs().max()) <= 1.0 / LAYER.n**0.5
    assert float(widest.a.std()) == pytest.approx((3.0 * LAYER.n) ** -0.5, rel=0.1)


def test_the_scale_is_divided_out_of_b_and_a_has_orthonormal_rows() -> None:
    rule = make_rule("flexlora")
    state, cohort = start()
    state = Round(rule, state, cohort, local_training, EXAMPLES).combined()
    values = torch.linalg.svdvals(learned(rule, state)[LAYER.name])
    for client, rank in RANKS.items():
        sent = rule.send(state, cohort[client], generator())[LAYER.name]
        assert_close(sent.a @ sent.a.T, torch.eye(rank), 1e-5)
        assert_close(sent.b.norm(dim=0) * ALPHA / rank, values[:rank], 1e-5)
        assert_close(torch.linalg.svdvals(product(sent))[:rank], values[:rank], 1e-5)


def test_rslora_changes_the_scale_alone() -> None:
    rule = make_rule("flexlora")
    spec = Spec((LAYER,), {LAYER.name: 9}, {LAYER.name: 4}, alpha=6.0, scaling="rslora")
    state = rule.init(spec, generator())
    assert rule.send(state, {LAYER.name: 4}, generator())[LAYER.name].scale == 3.0
    assert rule.readout(state, {LAYER.name: 9})[LAYER.name].scale == 2.0


@pytest.mark.parametrize("name", ["flexlora", "flexlora-increment"])
def test_what_fills_missing_directions_is_new(name: str) -> None:
    """Clients of rank 2 span the first initial rows: a client of rank 12 needs others."""
    rule = make_rule(name)
    state, cohort = start()
    low = dict.fromkeys(("ann", "bob", "cyd"), cohort["ann"])
    sent = rule.send(state, cohort["ann"], generator(0))

    def trained(seed: int) -> Adapter:
        return map_factors(
            sent, lambda f: Factors(gaussian(*f.b.shape, seed=seed), f.a * 1.1, f.scale)
        )

    returned = {client: trained(seed) for seed, client in enumerate(low)}
    contributions = [
        Contribution.of(client, 1 / 3, adapter[LAYER.name]) for client, adapter in returned.items()
    ]
    combined = rule.combine(at(state.spec), state.layers[LAYER.name], Listed(contributions))
    learned_rank = combined.state["s"].shape[0]
    whole = rule.send_layer(at(state.spec), combined.state, ClientView("", cohort["dan"]))
    filled = whole.a[learned_rank:]
    assert 0 < learned_rank < 12
    basis = combined.state["vh"]
    outside = filled - filled @ basis.T @ basis
    assert float((outside.norm(dim=1) / filled.norm(dim=1)).min()) > 0.5


@pytest.mark.parametrize("share", [1.0 - 1e-9, 0.5])
def test_a_screen_makes_nobody_owner_of_what_it_was_not_sent(share: float) -> None:
    """Nobody moves anything, and ρ = 1: whatever is left of no change, nothing may be lost."""
    spec = Spec.of([LAYER], [{LAYER.name: r} for r in (2, 4)], ALPHA)
    rule = make_rule("flexlora", {"retention": 1.0})
    u = torch.linalg.qr(gaussian(LAYER.m, 4, seed=1)).Q
    v = torch.linalg.qr(gaussian(LAYER.n, 4, seed=2)).Q
    start = LowRank(u * torch.tensor([8.0, 4.0, 2.0, 1.0]), v.T)
    state = rule.warm_start(spec, {LAYER.name: start}, generator())
    (layer,) = spec.at(1, generator())
    sent = rule.send(state, {LAYER.name: 2}, generator())[LAYER.name]
    trained = shrunk(sent, sent, share, as_factors=False)
    assert trained.rank == 4
    given = Listed([Contribution.of("a", 1.0, trained, sent=sent)])
    after = rule.combine(layer, state.layers[LAYER.name], given)
    assert_close(rule.learned_layer(layer, after.state).dense(), start.dense())


def test_retention_adds_what_the_others_were_not_sent() -> None:
    """Σ + ρ U diag((1 − p_j) σ_j) Vᵀ, here with singular values 8, 4, 2, 1 and ranks 1, 2, 4."""
    spec = Spec.of([LAYER], [{LAYER.name: r} for r in (1, 2, 4)], ALPHA)
    u = torch.linalg.qr(gaussian(LAYER.m, 4, seed=1)).Q
    v = torch.linalg.qr(gaussian(LAYER.n, 4, seed=2)).Q
    values = torch.tensor([8.0, 4.0, 2.0, 1.0])
    start = {LAYER.name: LowRank(u * values, v.T)}
    cohort = {"a": {LAYER.name: 1}, "b": {LAYER.name: 2}, "c": {LAYER.name: 4}}
    shares = {"a": 50, "b": 30, "c": 20}  # So p is 1, 0.5, 0.2, 0.2.
    for retention, kept in ((0.0, [8, 2, 0.4, 0.2]), (0.5, [8, 3, 1.2, 0.6]), (1.0, [8, 4, 2, 1])):
        rule = make_rule("flexlora", {"retention": retention})
        state = rule.warm_start(spec, start, generator())
        after = Round(rule, state, cohort, lambda _, sent: sent, shares).combined()
        wanted = (u.double() * torch.tensor(kept, dtype=torch.float64)) @ v.double().T
        assert_close(learned(rule, after)[LAYER.name], wanted, 1e-5)
