"""The server's step and momentum, on products and on factors, and by what clients weigh."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from flexlora.adapters import Adapter, LayerSpec
from flexlora.errors import ConfigError
from flexlora.rules import RULES, Rule, Server, Spec, State, Summary, make_rule
from reference import (
    Round,
    assert_all_close,
    assert_close,
    generator,
    learned,
    play,
    products,
    random_training,
)

LAYER = LayerSpec("q_proj", 12, 9)
COHORT = {"ann": {LAYER.name: 2}, "bob": {LAYER.name: 4}, "cyd": {LAYER.name: 9}}
SPEC = Spec.of([LAYER], list(COHORT.values()), alpha=4.0)
SUMS = sorted(n for n, r in RULES.items() if r.traits.needs == "sum" and r.traits.exact)
PRODUCTS = [n for n in SUMS if RULES[n].traits.compares == "product"]
MOVABLE = [n for n in SUMS if RULES[n].traits.delta != "residual"]


def moved(rule: Rule, rounds: int) -> list[State]:
    states = [rule.init(SPEC, generator())]
    for seed in range(1, rounds + 1):
        states.append(play(rule, states[-1], COHORT, random_training(seed), seed))
    return states


def weighted(round: Round) -> Tensor:
    """Σ w (trained − origin) in float64, of the one layer."""
    rule = round.rule
    parts = [round.weights[c] * products(reply)[LAYER.name] for c, reply in round.replies.items()]
    if rule.traits.origin:
        parts += [-round.weights[c] * products(s)[LAYER.name] for c, s in round.sent.items()]
    return torch.stack(parts).sum(dim=0)


@pytest.mark.parametrize("name", [n for n in PRODUCTS if n in MOVABLE])
@pytest.mark.parametrize(("step", "momentum"), [(0.5, 0.0), (2.0, 0.0), (1.0, 0.5), (1.5, 0.9)])
def test_what_is_learned_goes_the_servers_step(name: str, step: float, momentum: float) -> None:
    """Against V ← μ V + (Σ − held) and held + η V, written out with dense matrices."""
    rule = make_rule(name).served(Server(step, momentum))
    state, velocity = rule.init(SPEC, generator()), torch.zeros(12, 9, dtype=torch.float64)
    for seed in range(1, 5):
        round = Round(rule, state, COHORT, random_training(seed), seed=seed)
        before = learned(rule, state)[LAYER.name]
        change = weighted(round) - (before if rule.traits.delta == "none" else 0.0)
        velocity = momentum * velocity + change
        state = round.combined()
        # The highest rank is a full one, so nothing is cut.
        assert_close(learned(rule, state)[LAYER.name], before + step * velocity, 1e-4)


@pytest.mark.parametrize("name", [n for n in MOVABLE if n not in PRODUCTS])
def test_factors_go_the_servers_step(name: str) -> None:
    plain, rule = make_rule(name), make_rule(name).served(Server(step=1.5))
    (start, *_), train = moved(plain, 0), random_training(1)
    after, further = (play(r, start, COHORT, train, 1) for r in (plain, rule))
    for key, tensor in further.layers[LAYER.name].items():
        old = start.layers[LAYER.name][key]
        assert_close(tensor, old + 1.5 * (after.layers[LAYER.name][key] - old), 1e-5)


@pytest.mark.parametrize("name", MOVABLE)
def test_a_step_of_one_without_momentum_is_the_rule_itself_to_the_bit(name: str) -> None:
    plain, served = (moved(r, 2)[-1] for r in (make_rule(name), make_rule(name).served(Server())))
    for key, tensor in plain.layers[LAYER.name].items():
        assert torch.equal(served.layers[LAYER.name][key], tensor)
    # By another way, the same sum.
    tiny = moved(make_rule(name).served(Server(momentum=1e-12)), 2)[-1]
    assert_all_close(learned(make_rule(name), tiny), learned(make_rule(name), plain), 1e-5)


def test_a_step_of_k_keeps_all_that_k_clients_taught_apart() -> None:
    """Two clients that teach disjoint things lose half of each to the mean, and not at step 2."""
    rule = make_rule("flora").served(Server(step=2.0))
    state, ranks = rule.init(SPEC, generator()), {LAYER.name: 2}
    round = Round(rule, state, {"a": ranks, "b": ranks}, random_training(1), {"a": 5, "b": 5})
    taught = torch.stack([products(x)[LAYER.name] for x in round.replies.values()]).sum(dim=0)
    assert_close(learned(rule, round.combined())[LAYER.name], taught, 1e-5)


@pytest.mark.parametrize(
    ("by", "wanted"),
    [
        ("examples", {"a": 0.25, "b": 0.75}),
        ("uniform", {"a": 0.5, "b": 0.5}),
        ("rank", {"a": 0.8, "b": 0.2}),
        ("examples_rank", {"a": 4 / 7, "b": 3 / 7}),
    ],
)
def test_clients_weigh_as_asked(by: str, wanted: Mapping[str, float]) -> None:
    rule = make_rule("flexlora").served(Server(weights=by))  # type: ignore[arg-type]
    weights = rule.weights([Summary("a", 10, 1.0, 8.0), Summary("b", 30, 1.0, 2.0)])
    assert weights == pytest.approx(wanted)


def test_what_no_server_can_step_along_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"server.step is 2.0, but what rule rbla makes of a"):
        make_rule("rbla").served(Server(step=2.0))
    with pytest.raises(ConfigError, match=r"server.momentum is 0.9, but what rule fedex makes"):
        make_rule("fedex").served(Server(momentum=0.9))
    with pytest.raises(ConfigError, match=r"server.weights is 'rank', but rule hetlora weighs by"):
        make_rule("hetlora").served(Server(weights="rank"))
    with pytest.raises(ConfigError, match=r"server.step is 0"):
        Server(step=0.0)


def test_a_rule_that_is_served_stays_what_it_was() -> None:
    plain = make_rule("flexlora", {"retention": 0.5})
    served = plain.served(Server(step=2.0))
    assert (plain.server.step, served.server.step) == (1.0, 2.0)
    assert served.retention == 0.5  # type: ignore[attr-defined]
    sent = served.send(served.init(SPEC, generator()), COHORT["ann"], generator())
    assert isinstance(sent, Adapter)
