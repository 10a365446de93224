"""By what clients weigh, where a rule has no measure of its own."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from flexlora.config import make_config
from flexlora.config.settings import played_rule
from flexlora.errors import ConfigError
from flexlora.rules import Summary, Weighing, make_rule

SUMMARIES = [Summary("a", 10, 1.0, 8.0), Summary("b", 30, 1.0, 2.0)]


@pytest.mark.parametrize(
    ("by", "wanted"),
    [("examples", {"a": 0.25, "b": 0.75}), ("uniform", {"a": 0.5, "b": 0.5})],
)
def test_clients_weigh_as_asked(by: Weighing, wanted: Mapping[str, float]) -> None:
    assert make_rule("flexlora").weighed(by).weights(SUMMARIES) == pytest.approx(wanted)


def test_a_config_says_by_what() -> None:
    rule = played_rule(make_config(federation={"weights": "uniform"}))
    assert rule.weights(SUMMARIES) == {"a": 0.5, "b": 0.5}


def test_a_rule_with_a_measure_of_its_own_takes_no_other() -> None:
    with pytest.raises(ConfigError, match=r"federation.weights is 'uniform', but rule hetlora wei"):
        make_rule("hetlora").weighed("uniform")
    assert make_rule("hetlora").weighed("examples").name == "hetlora"


def test_a_rule_stays_what_it_was() -> None:
    plain = make_rule("flexlora", {"retention": 0.5})
    other = plain.weighed("uniform")
    assert (plain._weighing, other._weighing) == ("examples", "uniform")
    assert other.retention == 0.5  # type: ignore[attr-defined]
