"""HetLoRA: padding, norm weights, the tail's penalty, and pruning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flexlora.adapters import Adapter, Factors, LayerSpec, Scaling
from flexlora.errors import RoundError
from flexlora.lowrank import LowRank
from flexlora.rules import ClientView, Contribution, LayerState, Listed, Spec, Summary
from flexlora.rules.hetlora import HetLoRA
from reference import assert_close, at, dense, gaussian, generator, product, there

LAYER = LayerSpec("q_proj", 9, 7)
SPEC = Spec((LAYER,), {LAYER.name: 5}, {LAYER.name: 2}, alpha=10.0)
# For the contract tests, beside the default.
OPTIONS = [{"gamma": 0.5, "regulariser": 0.1}, {"scale": 0.3}]


def factors(rank: int, seed: int) -> Factors:
    return Factors(gaussian(9, rank, seed=seed), gaussian(rank, 7, seed=seed + 50), 1.0)


def whole_of(b: Tensor, a: Tensor, scale: float) -> Contribution:
    return Contribution.of("all", 1.0, Factors(b, a, scale))


def combined(rule: HetLoRA, state: LayerState, *parts: Contribution) -> LayerState:
    return rule.combine(at(SPEC), state, Listed(parts)).state


def encoded(rule: HetLoRA, trained: Adapter, sent: Adapter) -> Adapter:
    return rule.encode(trained, sent, {}).adapter


def adapter(*ranks: int) -> Adapter:
    return Adapter({f"layer{i}": factors(rank, i) for i, rank in enumerate(ranks)})


def tails_times(whole: Adapter, kept: dict[str, int], factor: float) -> Adapter:
    """The same adapter with the tail of every layer (above `kept`) multiplied by `factor`."""
    layers = {}
    for name, f in whole.items():
        b = f.b.clone()
        b[:, kept[name] :] *= factor
        layers[name] = Factors(b, f.a, f.scale)
    return Adapter(layers)


def test_factors_are_padded_with_zeros_to_the_highest_rank() -> None:
    rule = HetLoRA()
    start = rule.init(SPEC, generator()).layers[LAYER.name]
    small, large = factors(2, 1), factors(5, 2)
    parts = [Contribution.of("a", 0.25, small), Contribution.of("b", 0.75, large)]
    state = combined(rule, start, *parts)
    assert_close(state["b"][:, :2], 0.25 * small.b + 0.75 * large.b[:, :2], 1e-6)
    assert_close(state["a"][:2], 0.25 * small.a + 0.75 * large.a[:2], 1e-6)
    assert_close(state["b"][:, 2:], 0.75 * large.b[:, 2:], 1e-6)
    assert_close(state["a"][2:], 0.75 * large.a[2:], 1e-6)


def test_directions_that_no_client_of_the_round_owns_stay_as_they_are() -> None:
    rule = HetLoRA()
    start = rule.init(SPEC, generator()).layers[LAYER.name]
    first = combined(rule, start, Contribution.of("b", 1.0, factors(5, 2)))
    after = combined(rule, first, Contribution.of("a", 1.0, factors(2, 1)))
    assert torch.equal(after["b"][:, 2:], first["b"][:, 2:])
    assert torch.equal(after["a"][2:], first["a"][2:])
    assert torch.equal(after["a"][:2], factors(2, 1).a)


def test_a_client_is_sent_the_first_directions_at_one_common_scale() -> None:
    rule = HetLoRA()
    state = rule.init(SPEC, generator()).layers[LAYER.name]
    state = combined(rule, state, Contribution.of("b", 1.0, factors(5, 2)))
    for rank in (1, 2, 5):
        sent = rule.send_layer(at(SPEC), state, ClientView("", {LAYER.name: rank}))
        assert torch.equal(sent.b, state["b"][:, :rank])
        assert torch.equal(sent.a, state["a"][:rank])
        assert sent.scale == 1.0
        assert_close(product(rule.readout_layer(at(SPEC), state, rank)), product(sent), 1e-12)


@pytest.mark.parametrize("scaling", ["lora", "rslora"])
@pytest.mark.parametrize("alpha", [10.0, 1.0])
def test_by_default_a_client_computes_with_the_plain_product(
    scaling: Scaling, alpha: float
) -> None:
    """W₀ + BA as in the paper, whatever α and the federation's scaling by rank."""
    rule, spec = HetLoRA(), replace(SPEC, alpha=alpha, scaling=scaling)
    b, a = factors(5, 2).b, factors(5, 2).a
    state = rule.combine(
        at(spec), rule.init(spec, generator()).layers[LAYER.name], Listed([whole_of(b, a, 1.0)])
    ).state
    dense_b, dense_a = b.double(), a.double()
    for rank in (1, 2, 5):
        view = ClientView("", {LAYER.name: rank})
        plain = dense_b[:, :rank] @ dense_a[:rank]
        assert_close(product(rule.send_layer(at(spec), state, view)), plain, 1e-12)
        assert_close(product(rule.readout_layer(at(spec), state, rank)), plain, 1e-12)
    assert_close(dense(rule.learned_layer(at(spec), state)), dense_b @ dense_a, 1e-12)


@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_another_scale_multiplies_the_product_and_its_gradients(scale: float) -> None:
    """∂⟨G, s·BA⟩/∂B = s·G Aᵀ and ∂/∂A = s·Bᵀ G."""
    rule = HetLoRA(scale=scale)
    b, a = factors(5, 2).b, factors(5, 2).a
    start = rule.init(SPEC, generator()).layers[LAYER.name]
    state = rule.combine(at(SPEC), start, Listed([whole_of(b, a, scale)])).state
    sent = rule.send_layer(at(SPEC), state, ClientView("", {LAYER.name: 5}))
    assert sent.scale == scale
    assert_close(product(sent), scale * b.double() @ a.double(), 1e-6)
    live_b, live_a = b.double().requires_grad_(), a.double().requires_grad_()
    gradient = gaussian(9, 7, seed=3).double()
    (gradient * (sent.scale * live_b @ live_a)).sum().backward()
    assert_close(there(live_b.grad), scale * gradient @ a.double().T, 1e-12)
    assert_close(there(live_a.grad), scale * b.double().T @ gradient, 1e-12)


def test_a_start_is_the_same_update_at_any_scale() -> None:
    start = LowRank(gaussian(9, 3, seed=1), gaussian(3, 7, seed=2))
    for scale in (1.0, 0.3):
        rule = HetLoRA(scale=scale)
        begun = rule.warm_start(SPEC, {LAYER.name: start}, generator())
        assert_close(dense(rule.learned(begun)[LAYER.name]), dense(start), 1e-6)


def test_weights_follow_the_norm_of_the_whole_update() -> None:
    weights = HetLoRA().weigh([Summary("a", 1000, 1.0), Summary("b", 1, 3.0), Summary("c", 9, 0.0)])
    assert weights == pytest.approx({"a": 0.25, "b": 0.75, "c": 0.0})


def test_without_any_norm_examples_decide() -> None:
    weights = HetLoRA().weigh([Summary("a", 3, 0.0), Summary("b", 1, 0.0)])
    assert weights == pytest.approx({"a": 0.75, "b": 0.25})


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_is_refused(norm: float) -> None:
    with pytest.raises(RoundError, match=f"client b has weight {norm}; weights are finite"):
        HetLoRA().weigh([Summary("a", 3, 1.0), Summary("b", 1, norm)])


def test_a_tail_that_shrank_is_pruned_in_all_layers() -> None:
    rule, sent = HetLoRA(gamma=0.5), adapter(4, 5)
    kept = {"layer0": 2, "layer1": 2}
    pruned = encoded(rule, tails_times(sent, kept, 0.9), sent)
    assert pruned.ranks == kept
    for name, f in pruned.items():
        assert torch.equal(f.b, sent[name].b[:, :2])
        assert torch.equal(f.a, sent[name].a[:2])
        assert f.scale == sent[name].scale


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_a_tail_that_did_not_shrink_is_kept(factor: float) -> None:
    rule, sent = HetLoRA(gamma=0.5), adapter(4, 5)
    trained = tails_times(sent, {"layer0": 2, "layer1": 2}, factor)
    assert encoded(rule, trained, sent) is trained


def test_the_tails_of_all_layers_decide_together() -> None:
    rule, sent = HetLoRA(gamma=0.5), adapter(4, 4)
    shrunk = tails_times(sent, {"layer0": 2, "layer1": 4}, 0.1)
    both = Adapter({"layer0": shrunk["layer0"], "layer1": sent["layer1"]})
    assert encoded(rule, both, sent).ranks == {"layer0": 2, "layer1": 2}
    grown = tails_times(sent, {"layer0": 4, "layer1": 2}, 10.0)
    mixed = Adapter({"layer0": shrunk["layer0"], "layer1": grown["layer1"]})
    assert encoded(rule, mixed, sent).ranks == sent.ranks


def test_a_smaller_head_alone_is_no_reason_to_prune() -> None:
    rule, sent = HetLoRA(gamma=0.5), adapter(4)
    f = sent["layer0"]
    b = torch.cat([0.01 * f.b[:, :2], f.b[:, 2:]], dim=1)
    assert encoded(rule, Adapter({"layer0": Factors(b, f.a, f.scale)}), sent).ranks == {"layer0": 4}


@pytest.mark.parametrize(
    ("gamma", "rank", "kept"),
    [(0.99, 1, 1), (0.01, 5, 1), (0.99, 4, 3), (0.5, 5, 2), (1.0, 5, 5), (0.6, 5, 3), (0.7, 10, 7)],
)
def test_pruning_keeps_gamma_of_the_rank_but_at_least_one(
    gamma: float, rank: int, kept: int
) -> None:
    rule, sent = HetLoRA(gamma=gamma), adapter(rank)
    shrunk = tails_times(sent, {"layer0": 0}, 0.5)
    assert encoded(rule, shrunk, sent).ranks == {"layer0": kept}


def test_gamma_of_a_rank_is_not_spoilt_by_binary_fractions() -> None:
    """0.29 · 100 is 28.999999999999996 in floating point."""
    wide = Factors(gaussian(100, 100), gaussian(100, 100, seed=1), 1.0)
    half = Factors(0.5 * wide.b, wide.a, 1.0)
    assert encoded(HetLoRA(gamma=0.29), Adapter({"x": half}), Adapter({"x": wide})).ranks == {
        "x": 29
    }


def test_a_pruned_client_goes_on_at_its_lower_rank() -> None:
    rule = HetLoRA(gamma=0.5)
    start = rule.init(SPEC, generator()).layers[LAYER.name]
    state = combined(rule, start, Contribution.of("b", 1.0, factors(5, 2)))
    ranks = []
    rank = 5
    for _ in range(4):
        view = ClientView("", {LAYER.name: rank})
        sent = Adapter({LAYER.name: rule.send_layer(at(SPEC), state, view)})
        reply = encoded(rule, tails_times(sent, {LAYER.name: 0}, 0.9), sent)
        rank = reply.ranks[LAYER.name]
        ranks.append(rank)
    assert ranks == [2, 1, 1, 1]


def test_the_penalty_is_the_product_of_the_tails_norms() -> None:
    rule = HetLoRA(gamma=0.5, regulariser=0.3)
    whole = adapter(4, 5)
    live = {
        n: (f.b.clone().requires_grad_(), f.a.clone().requires_grad_()) for n, f in whole.items()
    }
    penalty = rule.penalty(live, live)
    assert penalty is not None
    wanted = sum(
        0.3 * float(f.b[:, 2:].double().norm()) * float(f.a[2:].double().norm())
        for f in whole.values()
    )
    assert float(penalty.detach()) == pytest.approx(wanted, rel=1e-5)
    penalty.backward()
    for name, (b, a) in live.items():
        tail_b, tail_a = whole[name].b[:, 2:], whole[name].a[2:]
        grad_b, grad_a = there(b.grad), there(a.grad)
        assert not grad_b[:, :2].any()
        assert not grad_a[:2].any()
        assert_close(grad_b[:, 2:], 0.3 * tail_a.norm() * tail_b / tail_b.norm(), 1e-5)
        assert_close(grad_a[2:], 0.3 * tail_b.norm() * tail_a / tail_a.norm(), 1e-5)


def test_the_penalty_is_smooth_enough_to_start_from_zero() -> None:
    b, a = torch.zeros(9, 4, requires_grad=True), gaussian(4, 7).requires_grad_()
    penalty = HetLoRA(gamma=0.5).penalty({"x": (b, a)}, {})
    assert penalty is not None
    penalty.backward()
    assert not there(b.grad).any()
    assert not there(a.grad).any()


def test_without_a_tail_there_is_no_penalty() -> None:
    live = {"x": (gaussian(9, 4), gaussian(4, 7))}
    assert HetLoRA(gamma=1.0).penalty(live, live) is None
    assert HetLoRA(gamma=0.5).penalty({"x": (gaussian(9, 1), gaussian(1, 7))}, {}) is None
