"""Rules by name: each once, with options of their types and ranges."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast

import pytest

from contracts.cases import every, worth_a_trial
from flexlora.errors import ConfigError, RuleError
from flexlora.rules import RULES, Rule, Traits, make_rule, register
from flexlora.rules.flexlora import FlexLoRA
from flexlora.rules.hetlora import HetLoRA
from flexlora.rules.increment import FlexLoRAIncrement
from reference import as_in_production
from seam.examples import EXAMPLES


@every()
def test_a_rule_names_itself_and_its_source(rule: Rule) -> None:
    assert type(rule) in EXAMPLES or RULES[rule.name] is type(rule)
    assert rule.source
    assert type(rule).__doc__


def test_a_memory_beside_an_origin_is_refused() -> None:
    with pytest.raises(RuleError, match=r"delta='origin' and memory=True: .* choose one of them"):
        Traits(delta="origin", memory=True)


def test_what_a_rules_own_test_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule without a test of its own has no options; one whose test is broken is no such rule."""

    def lacks(name: str) -> Callable[[str], object]:
        def fails(_module: str) -> object:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return fails

    monkeypatch.setattr(importlib, "import_module", lacks("rules.test_flexlora_rule"))
    assert worth_a_trial(FlexLoRA) == []
    monkeypatch.setattr(importlib, "import_module", lacks("pandas"))
    with pytest.raises(ModuleNotFoundError, match="pandas"):
        worth_a_trial(FlexLoRA)


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
        ("xyz", {}, "rule.name is 'xyz'; known: eclora, fed-plora"),
        ("hetlora", {"gama": 1.0}, "rule.gama is not an option of 'hetlora'; did you mean 'gamma'"),
        ("fedit", {"gamma": 1.0}, "rule.gamma is not an option of 'fedit'; leave it out"),
        (
            "hetlora",
            {"gamma": "a lot"},
            "rule.gamma is .a lot., expected a number above 0 and at",
        ),
        ("hetlora", {"gamma": 0.0}, "rule.gamma is 0.0, expected a number above 0 and at most 1"),
        ("hetlora", {"gamma": float("nan")}, "rule.gamma is nan"),
        (
            "hetlora",
            {"regulariser": -1.0},
            "rule.regulariser is -1.0, expected a number of 0 or",
        ),
        ("hetlora", {"regulariser": float("nan")}, "rule.regulariser is nan"),
        (
            "flexlora-increment",
            {"frozen_rank": 0},
            "rule.frozen_rank is 0, expected a whole number of 1",
        ),
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


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: HetLoRA(gamma=1.5),
            r"rule\.gamma is 1\.5, expected a number above 0 and",
        ),
        (lambda: HetLoRA(regulariser=float("inf")), r"rule\.regulariser is inf, expected a number"),
        (
            lambda: FlexLoRAIncrement(frozen_rank=True),
            r"rule\.frozen_rank is true, expected",
        ),
        (
            lambda: FlexLoRA(split=cast("Any", "right")),
            r'split is "right"; known: balanced, left',
        ),
    ],
)
def test_so_are_those_that_a_rule_is_made_with_in_python(
    made: Callable[[], Rule], message: str
) -> None:
    with as_in_production(), pytest.raises(ConfigError, match=message):
        made()
