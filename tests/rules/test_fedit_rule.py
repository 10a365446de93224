"""FedIT: the mean of the factors, at one rank, and what that costs."""

from __future__ import annotations

import torch

from flexlora.adapters import Factors, LayerSpec
from flexlora.rules import ClientView, Contribution, Listed, Spec, make_rule
from reference import assert_close, at, dense, gaussian, generator, product, tail_norm

LAYER = LayerSpec("q_proj", 12, 10)
SPEC = Spec.of([LAYER], [{LAYER.name: 3}, {LAYER.name: 8}], alpha=6.0)
RULE = make_rule("fedit")


def contributions() -> list[Contribution]:
    return [
        Contribution.of(
            name, weight, Factors(gaussian(12, 3, seed=i), gaussian(3, 10, seed=i + 9), 2.0)
        )
        for i, (name, weight) in enumerate({"a": 0.5, "b": 0.3, "c": 0.2}.items())
    ]


def combined() -> dict[str, torch.Tensor]:
    start = RULE.init(SPEC, generator()).layers[LAYER.name]
    result = RULE.combine(at(SPEC), start, Listed(contributions()))
    assert result.frozen is None
    assert result.step is None
    return dict(result.state)


def test_both_factors_are_averaged() -> None:
    state, parts = combined(), contributions()
    zero = torch.zeros(())
    assert_close(state["b"], sum((c.weight * c.trained.b.double() for c in parts), zero), 1e-6)
    assert_close(state["a"], sum((c.weight * c.trained.a.double() for c in parts), zero), 1e-6)


def test_the_mean_of_factors_is_not_the_mean_of_products() -> None:
    got = dense(RULE.learned_layer(at(SPEC), combined()))
    exact = sum((c.weight * product(c.trained) for c in contributions()), torch.zeros(()))
    assert float((got - exact).norm()) > 0.2 * float(exact.norm())
    by_hand = 2.0 * combined()["b"].double() @ combined()["a"].double()
    assert_close(got, by_hand, 1e-6)


def test_the_weakest_client_sets_the_rank_for_all() -> None:
    state = RULE.init(SPEC, generator())
    assert RULE.ranks_for(SPEC, {LAYER.name: 8}) == {LAYER.name: 3}
    sent = RULE.send(state, RULE.ranks_for(SPEC, {LAYER.name: 8}), generator())[LAYER.name]
    assert (sent.rank, sent.scale) == (3, 2.0)
    assert not sent.b.any()


def test_clients_train_exactly_what_the_server_holds() -> None:
    state = combined()
    sent = RULE.send_layer(at(SPEC), state, ClientView("", {LAYER.name: 3}))
    assert torch.equal(sent.b, state["b"])
    assert torch.equal(sent.a, state["a"])


def test_reading_out_at_a_lower_rank_is_the_best_approximation() -> None:
    state = combined()
    whole = dense(RULE.learned_layer(at(SPEC), state))
    for rank in (1, 2, 3, 6):
        read = RULE.readout_layer(at(SPEC), state, rank)
        assert read.rank == rank
        assert read.scale == 6.0 / rank
        assert abs(float((whole - product(read)).norm()) - tail_norm(whole, rank)) < 1e-4
