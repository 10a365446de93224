"""Ranks by what they leave out: within each client's own, said in every round, by traits."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from flexlora.config.settings import played_rule, require_error_budget
from flexlora.errors import ConfigError
from flexlora.federation.error_budget import ErrorBudget
from flexlora.federation.session import Session
from flexlora.lowrank import LowRank
from flexlora.rules import RULES, State, make_rule
from flexlora.runs.readout import load_state
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
    assert set(budget.of(own).values()) == {2}
    found = budget.left_out
    assert found is not None
    assert found.share == pytest.approx(2 * 0.3125 / whole, rel=1e-4)
    assert found.error == pytest.approx(math.sqrt(2 * 0.3125), rel=1e-4)
    assert set(budget.of(dict.fromkeys(own, 1)).values()) == {1}
    left = budget.left_out
    assert left is not None
    assert left.share == pytest.approx(2 * 1.3125 / whole, rel=1e-4)
    assert ErrorBudget(rule, state, 0.0).of(own) == own


def test_before_anything_is_learned_everybody_has_its_own() -> None:
    rule = make_rule("flexlora")
    own = dict.fromkeys((x.name for x in LAYERS), 4)
    budget = ErrorBudget(rule, rule.init(spec(1, 4), seeded(0)), 0.5)
    assert budget.of(own) == own
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
