"""Fed-PLoRA: modules of rank one, averaged over who trained them; the rest is in the base."""

from __future__ import annotations

import torch

from flexlora.adapters import Adapter, Factors
from flexlora.rules import State
from flexlora.rules.fed_plora import FedPLoRA
from reference import Round, assert_close, dense, generator, learned, play, product, random_training
from rules.by_hand import NAME, spec

SPEC = spec(1, 3, m=4, n=5, alpha=6.0)
RULE = FedPLoRA()
COHORT = {"ann": {NAME: 1}, "bob": {NAME: 3}}


def trained() -> State:
    state = RULE.init(SPEC, generator())
    for seed in range(2):
        state = play(RULE, state, COHORT, random_training(seed), seed)
    return state


def test_a_client_of_rank_one_computes_with_the_whole_adapter() -> None:
    """W₀ + Δ + trainable − origin, the last two equal before it trains; α/3 for all."""
    state = trained()
    whole = 2.0 * state.layers[NAME]["b"].double() @ state.layers[NAME]["a"].double()
    assert float(whole.norm()) > 0.1
    assert_close(learned(RULE, state)[NAME], whole, 1e-6)
    assert_close(dense(state.delta.layers[NAME]), whole, 1e-6)
    round = Round(RULE, state, COHORT, random_training(5))
    given, contribution = round.sent["ann"][NAME], round.contributions(NAME).each()[0]
    assert (given.rank, given.scale) == (1, 2.0)
    assert contribution.origin is given
    # What ann trains is one of the modules, and the base without it holds the other two.
    (j,) = (int(j) for j in range(3) if torch.equal(state.layers[NAME]["a"][j], given.a[0]))
    rest = [i for i in range(3) if i != j]
    others = (
        2.0 * state.layers[NAME]["b"][:, rest].double() @ state.layers[NAME]["a"][rest].double()
    )
    assert_close(dense(state.delta.layers[NAME]) - product(given), others, 1e-5)


def test_a_module_is_the_mean_over_who_trained_it() -> None:
    state, reply = trained(), {"ann": 4.0, "bob": 8.0}

    def train(client: str, given: Adapter) -> Adapter:
        f = given[NAME]
        b, a = (torch.full_like(x, reply[client]) for x in (f.b, f.a))
        return Adapter({NAME: Factors(b, a, f.scale)})

    round = Round(RULE, state, COHORT, train, {"ann": 1, "bob": 3})
    after = round.combined()
    (j,) = (
        j for j in range(3) if torch.equal(state.layers[NAME]["a"][j], round.sent["ann"][NAME].a[0])
    )
    for i in range(3):
        wanted = 0.25 * 4.0 + 0.75 * 8.0 if i == j else 8.0
        assert after.layers[NAME]["b"][:, i].tolist() == [wanted] * 4
        assert after.layers[NAME]["a"][i].tolist() == [wanted] * 5


def test_modules_that_nobody_trained_stay_and_a_step_is_what_moved() -> None:
    state = trained()
    round = Round(RULE, state, {"ann": COHORT["ann"]}, random_training(7), seed=7)
    after = round.combined()
    moved = (after.layers[NAME]["b"] != state.layers[NAME]["b"]).any(dim=0)
    assert int(moved.sum()) == 1
    assert torch.equal(after.layers[NAME]["b"][:, moved], round.replies["ann"][NAME].b)
    assert torch.equal(after.layers[NAME]["a"][~moved], state.layers[NAME]["a"][~moved])
    update = after.delta.since(state.delta.version)
    assert update is not None
    assert (update.start, update.layers[NAME].width) == (state.delta.version, 2)
    step = dense(after.delta.layers[NAME]) - dense(state.delta.layers[NAME])
    assert_close(dense(update.layers[NAME]), step, 1e-5)
