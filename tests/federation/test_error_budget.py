"""Ranks by what they leave out: within each client's own, said in every round, by traits."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from federation.test_loop import RANKS, assert_same, federation, noise, play, sent_ranks
from flexlora.config.config import Config
from flexlora.config.settings import played_rule, require_error_budget
from flexlora.errors import ConfigError
from flexlora.federation.error_budget import ErrorBudget
from flexlora.federation.loop import Federation
from flexlora.federation.session import Session
from flexlora.lowrank import LowRank
from flexlora.rules import RULES, State, make_rule
from flexlora.runs.readout import load_state, require_checkpoint
from flexlora.runs.run_directory import Run
from flexlora.seeds import seeded
from small import LAYERS, small, spec


def of_values(*values: float) -> State:
    """A state that has learned these singular values in each layer."""
    rule = make_rule("flexlora")
    held = {}
    for x in LAYERS:
        k = len(values)
        left = torch.linalg.qr(torch.randn(x.m, k, generator=seeded(1)))[0]
        right = torch.linalg.qr(torch.randn(x.n, k, generator=seeded(2)))[0].T
        held[x.name] = LowRank(left * torch.tensor(values), right)
    return rule.warm_start(spec(1, 4), held, seeded(0))


def test_a_client_gets_the_rank_that_leaves_the_share_out_and_never_more_than_its_own() -> None:
    rule, state = make_rule("flexlora"), of_values(2.0, 1.0, 0.5, 0.25)
    own = dict.fromkeys((x.name for x in LAYERS), 4)
    whole = 2 * (4 + 1 + 0.25 + 0.0625)
    budget = ErrorBudget(rule, state, 0.06)
    assert set(budget.of("a", own).values()) == {2}
    found = budget.left_out
    assert found is not None
    assert found.share == pytest.approx(2 * 0.3125 / whole, rel=1e-4)
    assert found.error == pytest.approx(math.sqrt(2 * 0.3125), rel=1e-4)
    assert set(budget.of("b", dict.fromkeys(own, 1)).values()) == {1}
    left = budget.left_out
    assert left is not None
    assert left.share == pytest.approx(2 * 1.3125 / whole, rel=1e-4)
    assert ErrorBudget(rule, state, 0.0).of("a", own) == own


def test_ranks_that_were_chosen_stand_within_ones_own_with_the_error_that_they_have_now() -> None:
    rule, state = make_rule("flexlora"), of_values(2.0, 1.0, 0.5, 0.25)
    own = dict.fromkeys((x.name for x in LAYERS), 4)
    chosen = {"a": dict.fromkeys(own, 3), "b": dict.fromkeys(own, 2)}
    budget = ErrorBudget(rule, state, 0.06, chosen)
    assert budget.of("a", own) == chosen["a"]
    found = budget.left_out
    assert found is not None
    assert found.error == pytest.approx(math.sqrt(2 * 0.0625), rel=1e-4)
    assert set(budget.of("b", dict.fromkeys(own, 1)).values()) == {1}  # It has less by now.
    assert set(budget.of("new", own).values()) == {2}


def test_ranks_are_chosen_every_few_rounds_and_a_stop_in_between_changes_nothing(
    tmp_path: Path,
) -> None:
    asked: dict[str, Any] = {"rounds": 6, "clients": 5, "leave_out": 0.05, "leave_out_every": 2}

    def ranks(made: Federation) -> list[dict[str, dict[str, int]]]:
        found: dict[int, dict[str, dict[str, int]]] = {}
        for job in noise(made).jobs:
            found.setdefault(job.round, {})[job.client] = sent_ranks(job)
        return [found[round] for round in sorted(found)]

    whole = federation(tmp_path / "whole", **asked)
    records = play(whole)
    first, second, third, fourth, fifth, last = ranks(whole)
    own = {client: dict.fromkeys(first[client], rank) for client, rank in RANKS.items()}
    assert first == second == own
    assert third == fourth != own
    assert fifth == last != fourth
    assert records[0].left_out is None
    shares = [x.left_out.share for x in records[1:] if x.left_out is not None]
    assert len(set(shares)) == 5  # Of each round's own state.
    stopped = federation(tmp_path / "r", **asked)
    for _ in range(3):
        stopped.play()
    again = federation(tmp_path / "r", values=[-3.0, -4.0, -5.0], **asked)
    play(again)
    assert ranks(again)[0] == fourth
    assert_same(again, whole)


def test_a_continued_run_goes_on_with_the_ranks_that_stand(tmp_path: Path) -> None:
    """It begins between two choices, and ends at the bits of one long run."""
    clients = {"leave_out": 0.3, "leave_out_every": 2}
    evaluation = {"unseen": False, "every": 0, "on_clients": "off"}

    def asked(rounds: int) -> Config:
        return small(
            clients=clients, evaluation=evaluation, federation={"rounds": rounds, "patience": 0}
        )

    long = Session.of(asked(4)).play(tmp_path / "long").folder
    short = Session.of(asked(3)).play(tmp_path / "short").folder
    tables = {"federation": {"rounds": 4}}
    more = Session.continuing(short, tables).play(tmp_path / "more").folder
    (tensors, meta), (wanted, wanted_meta) = (
        require_checkpoint(Run.open(folder), "last") for folder in (more, long)
    )
    assert meta["store"] == wanted_meta["store"]
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in tensors.items())
    records = [Run.open(folder).records()[-1] for folder in (more, long)]
    assert records[0].bytes_down == records[1].bytes_down
    anew = {**tables, "clients": {"leave_out_every": 3}}  # Another rhythm: what stood is let go.
    parent = Session.continuing(short, anew)
    assert parent.start is not None
    assert parent.start.store.within == {}


def test_a_period_needs_what_it_is_of() -> None:
    with pytest.raises(ConfigError, match="leave_out_every is 3 without leave_out"):
        small(clients={"leave_out_every": 3})


def test_before_anything_is_learned_everybody_has_its_own() -> None:
    rule = make_rule("flexlora")
    own = dict.fromkeys((x.name for x in LAYERS), 4)
    budget = ErrorBudget(rule, rule.init(spec(1, 4), seeded(0)), 0.5)
    assert budget.of("a", own) == own
    assert budget.left_out is None


def test_a_run_says_what_was_left_out_and_clients_keep_their_own_ranks(tmp_path: Path) -> None:
    config = small(clients={"leave_out": 0.3}, evaluation={"unseen": False, "on_clients": "off"})
    folder = Session.of(config).play(tmp_path / "run").folder
    run = Run.open(folder)
    first, *later = run.records()
    assert first.left_out is None
    plain = Session.of(small(evaluation={"unseen": False, "on_clients": "off"}))
    without = Run.open(plain.play(tmp_path / "plain").folder).records()
    for record, whole in zip(later, without[1:], strict=True):
        assert record.left_out is not None
        assert record.left_out.share > 0.0
        assert record.bytes_down < whole.bytes_down
        assert whole.left_out is None
    ranks = run.last_meta()["store"]["patterns"]
    assert {max(x[1:]) for x in ranks} == {2, 4}
    assert max(len(x) for x in make_rule("flexlora").singular_values(load_state(run)).values()) >= 1


def test_rules_that_say_nothing_of_what_is_left_out_are_refused_by_traits() -> None:
    def allows(name: str) -> bool:
        config = small(rule={"name": name}, clients={"leave_out": 0.1})
        with suppress(ConfigError):
            require_error_budget(config, played_rule(config))
            return True
        return False

    allowed = list(filter(allows, RULES))
    assert all(RULES[name].traits.mixed_ranks for name in allowed)
    assert "flexlora" in allowed
    for name in ("fedit", "flora", "hetlora", "rbla"):
        assert name not in allowed
    with pytest.raises(ConfigError, match=r"clients.leave_out is 0\.1, but under rule fedit"):
        Session.of(small(rule={"name": "fedit"}, clients={"leave_out": 0.1}))
    alone = small(federation={"mode": "local"}, clients={"leave_out": 0.1})
    assert Session.of(alone).rule.traits.alone
