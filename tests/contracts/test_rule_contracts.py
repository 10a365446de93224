"""Every registered rule, and the seam's examples, against the laws that their traits select.

A new rule needs no line here. Where some of its options are worth a trial of their own, the test of
what is special about it names them: `OPTIONS` in tests/rules/test_<file of the rule>_rule.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from flexlora.adapters import Adapter, Factors, LayerSpec, Ranks
from flexlora.errors import AdapterError, ConfigError, RoundError, RuleError
from flexlora.lowrank import LowRank
from flexlora.rules import (
    RULES,
    Combined,
    Contribution,
    Contributions,
    Layer,
    LayerState,
    Listed,
    Rule,
    Spec,
    State,
    Summary,
    Traits,
    make_rule,
    register,
)
from flexlora.rules.flexlora import FlexLoRA
from reference import (
    Round,
    as_in_production,
    assert_all_close,
    assert_close,
    at,
    best,
    dense,
    gaussian,
    generator,
    held_rank,
    learned,
    map_factors,
    nothing,
    play,
    product,
    products,
    random_training,
    tail_norm,
)
from seam.examples import EXAMPLES

LAYERS = (
    LayerSpec("model.layers.0.mlp.up_proj", 20, 10),
    LayerSpec("model.layers.0.self_attn.q_proj", 12, 14),
)
FULL = {layer.name: layer.largest_rank for layer in LAYERS}
LOW, HIGH = 2, 8


def worth_a_trial(rule: type[Rule]) -> list[dict[str, Any]]:
    """Options beside the default ones."""
    try:
        special = importlib.import_module(f"rules.test_{rule.__module__.split('.')[-1]}_rule")
    except ModuleNotFoundError:
        return []
    return list(getattr(special, "OPTIONS", []))


UNDER_TEST = [*(RULES[name] for name in sorted(RULES)), *EXAMPLES]
CASES = [(rule, options) for rule in UNDER_TEST for options in [{}, *worth_a_trial(rule)]]


def every(condition: Callable[[type[Rule]], bool] = lambda _: True) -> pytest.MarkDecorator:
    """Parametrise over the rules (and their options) of which the condition holds."""
    chosen = [
        pytest.param(rule(**options), id="-".join([rule.name, *options]))
        for rule, options in CASES
        if condition(rule)
    ]
    return pytest.mark.parametrize("rule", chosen)


def shared(rule: type[Rule]) -> bool:
    """Whether the server holds all that is learned: nothing of it stays with clients."""
    return not rule.traits.memory


def by_product(rule: type[Rule]) -> bool:
    return rule.traits.compares == "product"


def uniform(rank: int) -> dict[str, int]:
    return Ranks.of(rank).resolve(LAYERS)


MIXED = {"ann": uniform(LOW), "bob": uniform(3), "cyd": uniform(5), "dan": uniform(HIGH)}
WHOLE = dict.fromkeys(MIXED, FULL)
CUT = {"ann": uniform(LOW), "bob": uniform(LOW)}


def begun(rule: Rule, cohort: Mapping[str, Mapping[str, int]] = MIXED, seed: int = 0) -> State:
    spec = Spec.of(LAYERS, list(cohort.values()), alpha=4.0)
    return rule.init(spec, generator(seed))


def trained(rule: Rule, cohort: Mapping[str, Mapping[str, int]] = MIXED, rounds: int = 2) -> State:
    """The state after some rounds in which everybody learns something of their own."""
    state = begun(rule, cohort)
    for seed in range(1, rounds + 1):
        state = play(rule, state, cohort, random_training(seed), seed)
    return state


def outcome(rule: Rule, state: State) -> dict[str, torch.Tensor]:
    """What the rule says is to be compared: the learned products, or the factors it keeps.

    Beside a residual those are the ones that it sends.
    """
    if rule.traits.compares == "product":
        return learned(rule, state)
    if rule.traits.delta == "residual":
        sent = rule.send(state, state.spec.lowest, generator())
        factors = {f"{layer}.b": f.b for layer, f in sent.items()}
        factors |= {f"{layer}.a": f.a for layer, f in sent.items()}
        return {**learned(rule, state), **factors}
    return {
        f"{layer}.{key}": tensor.double()
        for layer, tensors in state.layers.items()
        for key, tensor in tensors.items()
    }


def tensors_of(*holders: State | Adapter) -> Iterator[torch.Tensor]:
    for holder in holders:
        if isinstance(holder, Adapter):
            sides = (t for factors in holder.values() for t in (factors.b, factors.a))
            yield from (t for t in sides if not t.is_meta)
            continue
        yield from (t for layer in holder.layers.values() for t in layer.values())
        yield from (t for x in holder.delta.layers.values() for t in (x.left, x.right))


def reordered(round: Round, clients: list[str]) -> State:
    """The round combined with its contributions in another order."""
    return round.combined(clients)


# --- combining -------------------------------------------------------------------------------


@every()
def test_the_order_of_clients_changes_nothing_beyond_rounding(rule: Rule) -> None:
    round = Round(rule, trained(rule), MIXED, random_training(7), seed=7)
    forward = outcome(rule, reordered(round, sorted(MIXED)))
    assert_all_close(outcome(rule, reordered(round, sorted(MIXED, reverse=True))), forward)
    assert_all_close(outcome(rule, reordered(round, ["cyd", "ann", "dan", "bob"])), forward)


@every()
def test_every_client_counts(rule: Rule) -> None:
    """The laws below would hold of a rule that ignores its clients, too."""
    round = Round(rule, trained(rule), MIXED, random_training(7), seed=7)
    everybody = outcome(rule, round.combined())
    for absent in MIXED:
        others = outcome(rule, round.combined([c for c in MIXED if c != absent]))
        assert any(
            float((others[n] - everybody[n]).norm()) > 1e-3 * float(everybody[n].norm())
            for n in everybody
        )


@every()
def test_weights_scale_out(rule: Rule) -> None:
    few = rule.weigh([Summary("ann", 3, 0.4), Summary("bob", 5, 1.2), Summary("cyd", 0, 0.0)])
    many = rule.weigh([Summary("ann", 21, 2.8), Summary("bob", 35, 8.4), Summary("cyd", 0, 0.0)])
    assert few == pytest.approx(many)
    assert sum(few.values()) == pytest.approx(1.0)
    assert set(few) == {"ann", "bob", "cyd"}
    assert few["cyd"] == 0.0
    assert few["bob"] > few["ann"] > 0.0


@every()
def test_no_weight_at_all_is_an_error(rule: Rule) -> None:
    with pytest.raises(RoundError, match="the weights of all 2 clients are zero"):
        rule.weigh([Summary("ann", 0, 0.0), Summary("bob", 0, 0.0)])
    with pytest.raises(RoundError, match="zero"):
        rule.weigh([])
    with pytest.raises(RoundError, match="client ann has weight -"):
        rule.weigh([Summary("ann", -1, -1.0), Summary("bob", 2, 2.0)])


@every(lambda rule: rule.traits.needs == "sum")
def test_what_needs_sums_alone_weighs_by_examples_alone(rule: Rule) -> None:
    """Who adds up as replies come knows no norm before the sum is there."""
    examples = {"ann": 3, "bob": 5, "cyd": 0}
    for norms in ((0.4, 1.2, 9.0), (0.0, 0.0, 1.0)):
        given = zip(examples.items(), norms, strict=True)
        weights = rule.weigh([Summary(client, count, norm) for (client, count), norm in given])
        assert weights == pytest.approx({"ann": 3 / 8, "bob": 5 / 8, "cyd": 0.0})


@every()
def test_no_more_is_asked_for_than_the_traits_say(rule: Rule) -> None:
    """`combine` hands out no more than that; what a rule is given is told here."""
    given: list[Contributions] = []

    class Told(type(rule)):  # type: ignore[misc]
        def combine_layer(
            self, layer: Layer, state: LayerState, contributions: Contributions
        ) -> Combined:
            given.append(contributions)
            return super().combine_layer(layer, state, contributions)

    told = object.__new__(Told)
    told.__dict__.update(rule.__dict__)
    Round(told, trained(rule), MIXED, random_training(5), seed=5).combined()
    assert len(given) == len(LAYERS)
    for contributions in given:
        if rule.traits.needs == "each":
            assert len(contributions.each()) == len(MIXED)
            continue
        with pytest.raises(RuleError, match=r"its traits say needs='sum'; declare needs='each'"):
            contributions.each()


def test_a_rule_that_asks_for_what_it_did_not_declare_fails() -> None:
    class Nosy(FlexLoRA):  # type: ignore[misc]  # It is final.
        def combine_layer(
            self, layer: Layer, state: LayerState, contributions: Contributions
        ) -> Combined:
            assert contributions.each()
            return super().combine_layer(layer, state, contributions)

    with pytest.raises(RuleError, match="rule flexlora asked for every client's contribution"):
        play(Nosy(), begun(Nosy()), MIXED, nothing)


@every(lambda rule: by_product(rule) and rule.traits.needs == "sum")
def test_combining_is_linear_in_the_contributions(rule: Rule) -> None:
    """Two groups combined apart, then averaged by their weights, are all combined at once.

    A rule may cut the sum to the federation's highest rank; here that is a full one.
    """
    state = trained(rule)
    spec = replace(state.spec, highest={x.name: min(x.m, x.n) for x in state.spec.layers})
    round = Round(rule, replace(state, spec=spec), MIXED, random_training(5), seed=5)
    groups = (["ann", "dan"], ["bob", "cyd"])
    parts = [learned(rule, round.combined(group)) for group in groups]
    shares = [sum(round.weights[client] for client in group) for group in groups]
    wanted = {n: shares[0] * parts[0][n] + shares[1] * parts[1][n] for n in FULL}
    assert_all_close(learned(rule, round.combined()), wanted)


@every(lambda r: not by_product(r) and r.traits.needs == "sum" and r.traits.delta != "residual")
def test_combining_is_linear_in_the_factors(rule: Rule) -> None:
    round = Round(rule, trained(rule), MIXED, random_training(5), seed=5)
    groups = (["ann", "dan"], ["bob", "cyd"])
    parts = [outcome(rule, round.combined(group)) for group in groups]
    shares = [sum(round.weights[client] for client in group) for group in groups]
    wanted = {n: shares[0] * parts[0][n] + shares[1] * parts[1][n] for n in parts[0]}
    assert_all_close(outcome(rule, round.combined()), wanted)


@every(by_product)
def test_only_products_count(rule: Rule) -> None:
    """(B M, M⁻¹ A) stands for the same update as (B, A)."""

    def turned(f: Factors) -> Factors:
        mixing = torch.eye(f.rank, dtype=torch.float64)
        mixing = mixing + 0.3 * gaussian(f.rank, f.rank, seed=f.rank).double() / f.rank**0.5
        a = torch.linalg.solve(mixing, f.a.double()).to(f.a.dtype)
        return Factors((f.b.double() @ mixing).to(f.b.dtype), a, f.scale)

    train = random_training(5)
    state = trained(rule)
    plain = learned(rule, play(rule, state, MIXED, train, seed=5))
    other = play(rule, state, MIXED, lambda c, sent: map_factors(train(c, sent), turned), seed=5)
    assert_all_close(learned(rule, other), plain, 2e-5)


@every()
def test_nothing_trained_before_the_first_round_leaves_the_base(rule: Rule) -> None:
    state = play(rule, begun(rule), MIXED, nothing)
    for matrix in [*learned(rule, begun(rule)).values(), *learned(rule, state).values()]:
        assert float(matrix.norm()) == 0.0
    assert all(float(dense(x).norm()) == 0.0 for x in state.delta.layers.values())


@every()
def test_nothing_trained_at_full_rank_leaves_what_is_learned(rule: Rule) -> None:
    state = trained(rule, WHOLE)
    before = learned(rule, state)
    assert rule.traits.memory or all(float(matrix.norm()) > 0.1 for matrix in before.values())
    for seed in range(3):
        state = play(rule, state, WHOLE, nothing, seed)
    assert_all_close(learned(rule, state), before)


@every(lambda rule: rule.traits.delta != "none")
def test_nothing_trained_at_any_rank_leaves_what_is_learned(rule: Rule) -> None:
    state = trained(rule)
    before = learned(rule, state)
    for seed in range(3):
        state = play(rule, state, MIXED, nothing, seed)
    assert_all_close(learned(rule, state), before)


@every(shared)
def test_identical_clients_at_full_rank_get_back_what_they_sent(rule: Rule) -> None:
    state = trained(rule, WHOLE)
    same = random_training(9)
    round = Round(rule, state, WHOLE, lambda _, sent: same("all", sent), seed=9)
    sent = products(round.replies["ann"])
    if rule.traits.delta == "restart":
        sent = {name: sent[name] + matrix for name, matrix in learned(rule, state).items()}
    elif rule.traits.delta == "residual":
        held = state.delta.layers
        sent = {name: sent[name] + dense(held[name]) for name in sent}
    assert_all_close(learned(rule, round.combined()), sent)


@every()
def test_contributions_of_zero_leave_finite_numbers(rule: Rule) -> None:
    def emptied(f: Factors) -> Factors:
        return Factors(torch.zeros_like(f.b), torch.zeros_like(f.a), f.scale)

    for start in (begun(rule), trained(rule)):
        state = play(rule, start, MIXED, lambda _, sent: map_factors(sent, emptied))
        state = play(rule, state, MIXED, random_training(3), seed=3)
        asked = [rule.ranks_for(state.spec, ranks) for ranks in MIXED.values()]
        sends = [rule.send(state, ranks, generator()) for ranks in asked]
        for tensor in tensors_of(state, *sends):
            assert bool(torch.isfinite(tensor).all())


@every()
def test_half_precision_replies_are_combined_in_float32(rule: Rule) -> None:
    """A thousand equal replies average to one of them, not to what bf16 sums round to."""
    state = begun(rule, CUT)
    spec, layer = state.spec, at(state.spec)
    sent = rule.send(state, rule.ranks_for(spec, uniform(LOW)), generator())[layer.name]
    b, a = gaussian(layer.m, sent.rank).bfloat16(), gaussian(sent.rank, layer.n, seed=1).bfloat16()
    reply = Factors(b, a, sent.scale).only(rule.returns(1))
    reply = reply.filled(sent) if rule.leaves_the_rest(1) else reply
    origin = sent if rule.traits.origin else None
    contributions = Listed(
        [Contribution.of(f"{i:04d}", 1e-3, reply, origin, sent) for i in range(1000)]
    )
    result = rule.combine(layer, state.layers[layer.name], contributions)
    learned_ = dense(rule.learned_layer(layer, result.state))
    assert_close(learned_, product(reply.filled(sent)), 1e-4)
    floats = [tensor for tensor in result.state.values() if tensor.is_floating_point()]
    assert all(tensor.dtype == torch.float32 for tensor in floats)


# --- Δ ---------------------------------------------------------------------------------------


@every()
def test_a_step_is_what_was_added_to_delta(rule: Rule) -> None:
    before = trained(rule)
    after = play(rule, before, MIXED, random_training(4), seed=4)
    if not after.delta.layers:
        assert rule.traits.delta == "none"
        return
    assert after.delta.version == before.delta.version + 1
    for patch in (p for p in after.delta.patches if p.version == after.delta.version):
        for name, step in patch.layers.items():
            total = dense(before.delta.layers[name]) + dense(step)
            assert_close(dense(after.delta.layers[name]), total)


@every(lambda rule: rule.traits.delta == "restart")
def test_a_restart_puts_all_that_is_learned_into_delta(rule: Rule) -> None:
    state = trained(rule)
    for name, matrix in learned(rule, state).items():
        assert_close(dense(state.delta.layers[name]), matrix)
    for ranks in MIXED.values():
        for factors in rule.send(state, ranks, generator(3)).values():
            assert float(product(factors).norm()) == 0.0


@every(lambda rule: rule.traits.delta == "residual")
def test_beside_a_residual_clients_begin_at_what_is_learned(rule: Rule) -> None:
    """W₀ + Δ + sent is W₀ + learned, and what they learn is added to it exactly."""
    state = trained(rule)
    for ranks in MIXED.values():
        sent = rule.send(state, rule.ranks_for(state.spec, ranks), generator())
        for name, matrix in learned(rule, state).items():
            assert_close(dense(state.delta.layers[name]) + product(sent[name]), matrix)
    round = Round(rule, state, MIXED, random_training(9), seed=9)
    moved = learned(rule, round.combined())
    for name, matrix in learned(rule, state).items():
        steps = [
            round.weights[client] * (product(reply[name]) - product(round.sent[client][name]))
            for client, reply in round.replies.items()
        ]
        assert_close(moved[name], matrix + sum(steps))


@every(lambda rule: rule.traits.origin)
def test_an_origin_rule_starts_every_client_from_what_is_learned(rule: Rule) -> None:
    """W₀ + Δ + trainable − origin is W₀ + learned, or its best part of the rank Δ is bounded to."""
    state = begun(rule)
    bound = getattr(rule, "frozen_rank", None)
    for seed in range(1, 5):
        everything = learned(rule, state)
        for ranks in MIXED.values():
            sent = rule.send(state, ranks, generator(seed))
            for name, factors in sent.items():
                frozen = state.delta.layers.get(name)
                start = torch.zeros(everything[name].shape) if frozen is None else dense(frozen)
                whole = everything[name]
                wanted = whole if bound is None else best(whole, max(bound, HIGH))
                # The client sees all of it although it trains only the top …
                assert_close(start, wanted, 1e-4)
                # … and Δ holds the origin: what is left without it is the tail alone.
                left = float((start - product(factors)).norm())
                assert left == pytest.approx(tail_norm(wanted, ranks[name]), abs=1e-4)
        state = play(rule, state, MIXED, random_training(seed), seed)


# --- a warm start ----------------------------------------------------------------------------


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


@every(lambda rule: rule.traits.sends == "pattern" and rule.traits.delta != "residual")
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
        sent = rule.send(state, asked, generator(1))
        assert sent.ranks == asked
        assert_trainable(sent)
        for name, factors in sent.items():
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


# --- sending and reading out -----------------------------------------------------------------


def assert_trainable(adapter: Adapter) -> None:
    """A direction with b = 0 and a = 0 has no gradient and never learns."""
    for name, factors in adapter.items():
        for j in range(factors.rank):
            alive = bool(factors.b[:, j].any()) or bool(factors.a[j].any())
            assert alive, f"{name}: direction {j} of {factors.rank} is dead"


@every()
@pytest.mark.parametrize("history", ["new", "mixed", "low ranks only", "nothing learned"])
def test_what_is_sent_has_the_clients_ranks_and_can_be_trained(rule: Rule, history: str) -> None:
    state = {
        "new": lambda: begun(rule),
        "mixed": lambda: trained(rule),
        "low ranks only": lambda: play(rule, begun(rule), CUT, random_training(1)),
        "nothing learned": lambda: play(rule, begun(rule), CUT, nothing),
    }[history]()
    for client, ranks in MIXED.items():
        asked = rule.ranks_for(state.spec, ranks)
        sent = rule.send(state, asked, generator(1), client)
        assert sent.ranks == asked
        assert {name: f.shape for name, f in sent.items()} == {x.name: (x.m, x.n) for x in LAYERS}
        received = rule.receive(sent, {})
        assert received.ranks == asked
        assert all(factors.sides == "both" for factors in received.values())
        assert_trainable(received)


@every()
def test_sends_differ_by_client_where_the_traits_say_so_and_else_by_ranks_alone(rule: Rule) -> None:
    state, ranks = trained(rule), uniform(LOW)
    one, other = (rule.send(state, ranks, generator(1), client) for client in ("ann", "bob"))
    same = all(torch.equal(x, y) for x, y in zip(tensors_of(one), tensors_of(other), strict=True))
    assert same == (rule.traits.sends == "pattern")
    again = rule.send(state, ranks, generator(1), "ann")
    assert all(map(torch.equal, tensors_of(again), tensors_of(one)))


# --- at the client ---------------------------------------------------------------------------


@every()
def test_a_client_returns_the_sides_that_it_is_asked_for(rule: Rule) -> None:
    for round_ in (1, 2, 3, 4):
        sent = rule.send(trained(rule, rounds=round_ - 1), uniform(LOW), generator(1), "ann")
        received = rule.receive(sent, {})
        encoded = rule.reply(round_, random_training(1)("ann", received), received, {})
        for name, factors in encoded.adapter.items():
            assert factors.sides == rule.returns(round_)
            assert factors.shape == sent[name].shape


@every(lambda rule: rule.traits.origin)
def test_an_origin_rule_trains_what_it_was_sent(rule: Rule) -> None:
    """Δ holds that, and nothing else is subtracted."""
    sent = rule.send(trained(rule), uniform(3), generator(1))
    received = rule.receive(sent, {})
    assert all(map(torch.equal, tensors_of(received), tensors_of(sent)))


@every(shared)
def test_without_the_trait_nothing_is_remembered(rule: Rule) -> None:
    round = Round(rule, trained(rule), MIXED, random_training(5), seed=5)
    assert not any(round.remembered.values())


@every(lambda rule: rule.traits.memory)
def test_what_is_remembered_is_ones_own_and_never_leaves(rule: Rule) -> None:
    state = trained(rule)
    round = Round(rule, state, MIXED, random_training(5), seed=5)
    own = list(round.remembered["ann"].values())
    assert own
    for reply in round.replies.values():
        for tensor in tensors_of(reply):
            assert not any(tensor.shape == x.shape and torch.equal(tensor, x) for x in own)
    # Coming again, it goes on from there, and nobody else does.
    after, sent = round.combined(), round.sent["ann"]
    sent = rule.send(after, rule.ranks_for(after.spec, MIXED["ann"]), generator(6), "ann")
    new, again = rule.receive(sent, {}), rule.receive(sent, round.remembered["ann"])
    other = rule.receive(sent, round.remembered["bob"])
    assert not all(map(torch.equal, tensors_of(new), tensors_of(again)))
    assert not all(map(torch.equal, tensors_of(other), tensors_of(again)))


@every(lambda rule: rule.traits.memory)
def test_a_memory_of_other_ranks_does_no_harm(rule: Rule) -> None:
    """As it is in a continued run whose ranks were changed."""
    wide = Round(rule, begun(rule, WHOLE), WHOLE, random_training(1))
    state = begun(rule)
    sent = rule.send(state, rule.ranks_for(state.spec, MIXED["ann"]), generator(), "ann")
    received = rule.receive(sent, wide.remembered["ann"])
    assert received.ranks == sent.ranks
    assert {name: f.shape for name, f in received.items()} == {x.name: (x.m, x.n) for x in LAYERS}


@every(lambda rule: by_product(rule) and rule.traits.delta in ("none", "origin"))
def test_ranks_above_what_has_been_learned_are_filled(rule: Rule) -> None:
    """The sent product is all that has been learned, and the rest of the rank can be trained."""
    state = play(rule, begun(rule), {"ann": uniform(LOW)}, random_training(1))
    sent = rule.send(state, uniform(HIGH), generator(1))
    assert_all_close(products(sent), learned(rule, state))
    for factors in sent.values():
        assert torch.linalg.matrix_rank(factors.b) < HIGH
        assert bool((factors.a.norm(dim=1) > 1e-3).all())


@every(lambda rule: by_product(rule) and rule.traits.delta in ("none", "origin"))
def test_what_is_sent_is_the_best_part_of_its_rank(rule: Rule) -> None:
    state = trained(rule)
    for ranks in MIXED.values():
        for name, factors in rule.send(state, ranks, generator(1)).items():
            whole = learned(rule, state)[name]
            distance = float((whole - product(factors)).norm())
            assert distance == pytest.approx(tail_norm(whole, ranks[name]), abs=1e-4)


@every()
def test_reading_out_has_exactly_the_asked_rank(rule: Rule) -> None:
    for state in (begun(rule), trained(rule)):
        for rank in range(1, 11):
            adapter = rule.readout(state, uniform(rank))
            assert adapter.ranks == uniform(rank)
            adapter.require_finite()


@every()
def test_the_singular_values_are_those_of_what_was_learned(rule: Rule) -> None:
    for state in (begun(rule), trained(rule)):
        found = rule.singular_values(state)
        for name, matrix in learned(rule, state).items():
            wanted = torch.linalg.svdvals(matrix)
            held = torch.zeros_like(wanted)
            held[: found[name].shape[0]] = found[name].double()
            assert_close(held, wanted, 1e-6)


@every()
def test_reading_out_at_a_rank_that_is_enough_loses_nothing(rule: Rule) -> None:
    state = trained(rule)
    assert_all_close(products(rule.readout(state, FULL)), learned(rule, state))


@every(by_product)
def test_reading_out_is_the_best_part_of_its_rank(rule: Rule) -> None:
    state = trained(rule)
    for rank in (1, 3, 6):
        for name, factors in rule.readout(state, uniform(rank)).items():
            whole = learned(rule, state)[name]
            distance = float((whole - product(factors)).norm())
            assert distance == pytest.approx(tail_norm(whole, rank), abs=1e-4)


@every()
def test_ranks_follow_the_bucket_unless_they_may_be_mixed(rule: Rule) -> None:
    spec = begun(rule).spec
    for ranks in MIXED.values():
        wanted = ranks if rule.traits.mixed_ranks else uniform(LOW)
        assert rule.ranks_for(spec, ranks) == wanted


@every()
def test_ranks_may_differ_by_layer(rule: Rule) -> None:
    """Type 3 of the paper (attention 30, MLP 200) at a twenty-fifth, beside two uniform types."""
    cohort = {
        "light": Ranks.of(30).scaled(0.04).resolve(LAYERS),
        "mixed": Ranks.of({"attention": 30, "mlp": 200}).scaled(0.04).resolve(LAYERS),
        "heavy": Ranks.of(200).scaled(0.04).resolve(LAYERS),
    }
    assert sorted(cohort["mixed"].values()) == [1, 8]
    state = trained(rule, cohort)
    for ranks in cohort.values():
        asked = rule.ranks_for(state.spec, ranks)
        assert rule.send(state, asked, generator()).ranks == asked
        assert rule.readout(state, ranks).ranks == ranks


# --- purity ----------------------------------------------------------------------------------


@every()
def test_no_input_is_changed_in_place(rule: Rule) -> None:
    state = trained(rule)
    round = Round(rule, state, MIXED, random_training(3), seed=3)
    remembered = [tensor for own in round.remembered.values() for tensor in own.values()]
    held = [*tensors_of(state, *round.sent.values(), *round.replies.values()), *remembered]
    copies = [tensor.clone() for tensor in held]
    round.combined()
    rule.readout(state, uniform(3))
    rule.send(state, rule.ranks_for(state.spec, uniform(3)), generator(1))
    live = {name: (f.b, f.a) for name, f in round.received["dan"].items()}
    rule.penalty(live, live)
    for client, received in round.received.items():
        memory = round.remembered[client]
        rule.receive(round.sent[client], memory)
        rule.encode(random_training(4)(client, received), received, memory)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(held, copies, strict=True))


@every()
def test_all_randomness_comes_from_the_generator(rule: Rule) -> None:
    def everything(seed: int) -> list[torch.Tensor]:
        start = begun(rule, seed=seed)
        state = play(rule, start, MIXED, random_training(1), seed)
        sent = rule.send(state, rule.ranks_for(state.spec, uniform(HIGH)), generator(seed))
        return list(tensors_of(start, state, sent))

    torch.manual_seed(1)
    global_state = torch.get_rng_state()
    first = everything(5)
    assert torch.equal(torch.get_rng_state(), global_state)
    torch.manual_seed(2)
    assert all(torch.equal(x, y) for x, y in zip(first, everything(5), strict=True))
    other = everything(6)
    assert not all(torch.equal(x, y) for x, y in zip(first, other, strict=True))


@every()
def test_training_may_be_penalised_but_never_with_nonsense(rule: Rule) -> None:
    """At the start (b = 0) and later, the penalty and its gradient are finite, the value ≥ 0."""
    for state in (begun(rule), trained(rule)):
        sent = rule.send(state, rule.ranks_for(state.spec, uniform(HIGH)), generator())
        received = rule.receive(sent, {})
        live = {
            name: (f.b.clone().requires_grad_(), f.a.clone().requires_grad_())
            for name, f in received.items()
        }
        penalty = rule.penalty(live, {name: (f.b, f.a) for name, f in received.items()})
        if penalty is None:
            continue
        assert float(penalty.detach()) >= 0.0
        penalty.backward()
        for pair in live.values():
            assert all(bool(torch.isfinite(x.grad).all()) for x in pair if x.grad is not None)


# --- the registry ----------------------------------------------------------------------------


@every()
def test_a_rule_names_itself_and_its_source(rule: Rule) -> None:
    assert type(rule) in EXAMPLES or RULES[rule.name] is type(rule)
    assert rule.source
    assert type(rule).__doc__


def test_a_memory_beside_an_origin_is_refused() -> None:
    with pytest.raises(RuleError, match=r"delta='origin' and memory=True: .* choose one of them"):
        Traits(delta="origin", memory=True)


def test_a_taken_name_is_refused() -> None:
    class Impostor(FlexLoRA):  # type: ignore[misc]  # It is final.
        """Another rule under a taken name."""

    with pytest.raises(ConfigError, match="'flexlora' is registered already, by FlexLoRA"):
        register(Impostor)
    assert RULES["flexlora"] is FlexLoRA
    assert register(FlexLoRA) is FlexLoRA


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("flexlor", {}, "rule.name is 'flexlor'; did you mean 'flexlora'?"),
        ("xyz", {}, "rule.name is 'xyz'; known: fedit, flexlora"),
        ("hetlora", {"gama": 1.0}, "rule.gama is not an option of 'hetlora'; did you mean 'gamma'"),
        ("fedit", {"gamma": 1.0}, "rule.gamma is not an option of 'fedit'; leave it out"),
        (
            "hetlora",
            {"gamma": "a lot"},
            "rule.gamma is .a lot., expected a number; correct it",
        ),
        ("hetlora", {"gamma": 0.0}, "rule.gamma is 0.0; give a share above 0 and at most 1"),
        ("hetlora", {"gamma": float("nan")}, "rule.gamma is nan"),
        ("hetlora", {"regulariser": -1.0}, "rule.regulariser is -1.0; give 0 or more"),
        ("hetlora", {"regulariser": float("nan")}, "rule.regulariser is nan"),
        ("flexlora-increment", {"frozen_rank": 0}, "rule.frozen_rank is 0; give a whole number"),
        (
            "flexlora-increment",
            {"frozen_rank": 2.5},
            "rule.frozen_rank is 2.5, expected a whole number",
        ),
    ],
)
def test_unknown_names_and_wrong_options_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with as_in_production(), pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        make_rule(name, options)
