"""What a comparison's config may say, and in which sentence all else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comparing.comparisons import comparison, document
from flexlora.comparing.checks import previews, require_playable
from flexlora.comparing.comparison import load_comparison, parse_comparison
from flexlora.comparing.settings import seeds_needed
from flexlora.errors import ConfigError, FlexLoRAError
from flexlora.federation.collector import Plain

SIX = {"seeds": [0, 1, 2, 3, 4, 5]}
PAIR = {"primary": ["fedit", "flexlora"]}


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        ({"rulse": ["fedit"]}, "config key compare.rulse is unknown; did you mean 'rules'?"),
        ({"seeds": []}, "compare.seeds is [], expected a list that is not empty"),
        ({"seeds": [1, 1]}, "compare.seeds: 1 is named twice; name each once"),
        ({"seeds": 3}, "compare.seeds is 3, expected a list"),
        ({"rules": ["fedit", "fedit"]}, "compare.rules: fedit is named twice"),
        ({"hosts": ["fedvg"]}, "compare.hosts: 'fedvg' is unknown; did you mean 'fedavg'?"),
        ({"controls": ["locl"]}, "compare.controls: 'locl' is unknown; did you mean 'local'?"),
        ({"part": "test"}, 'compare.part is "test"; known: own, unseen, validation'),
        ({"level": 0.0}, "compare.level is 0.0, expected above 0"),
        ({"rates": [1e-2, 1e-3], "tuning_seeds": [9]}, "the rates do not rise"),
        ({"rates": [1e-3, 1e-2]}, "rates has 2 values, but tuning_seeds is empty"),
        (
            {"rates": [1e-3, 1e-2], "tuning_seeds": [1, 9]},
            "tuning_seeds has 1, which seeds has too; tune on seeds that are not compared",
        ),
        ({"primary": ["fedit"], **SIX}, "primary is no pair; name two different arms"),
        (
            PAIR,
            "seeds has 2, and the exact paired test of primary can reach no p below 0.5; for level "
            "0.05 give at least 6 seeds, or raise level",
        ),
        (
            {"primary": ["fedt", "flexlora"], **SIX},
            "compare.primary: no arm is 'fedt'; did you mean 'fedit'?",
        ),
        ({"rules": []}, "has no rules and no [arms]; name what is compared"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(compare: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        comparison(**compare)
    assert message in str(error.value)


def test_the_other_tables_are_held_to_what_they_are() -> None:
    for tables, message in (
        ({"evalution": {}}, "config table [evalution] is unknown; did you mean 'evaluation'?"),
        ({"federation": {"seed": 3}}, "federation.seed is given beside compare.seeds; leave it"),
    ):
        with pytest.raises(ConfigError) as error:
            comparison(None, tables)
        assert message in str(error.value)
    with pytest.raises(ConfigError, match=r"training.learning_rate is given beside compare.rates"):
        comparison(None, {"training": {"learning_rate": 1.0}}, rates=[1e-3])
    with pytest.raises(ConfigError, match="has no seeds; name those on which arms are compared"):
        parse_comparison({"compare": {"rules": ["fedit"]}})
    with pytest.raises(ConfigError, match=r"compare is 3, expected a table \[compare\]"):
        parse_comparison({"compare": 3})


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"fedit": {"rule": {"name": "flora"}}}, "config names 'fedit' twice among its arms"),
        ({"x": 3}, 'config [arms."x"] is 3, expected a table of keys'),
        ({"x": {"rul": {}}}, "config [arms.\"x\"]: rul is unknown; did you mean 'rule'?"),
        ({"x": {"rule": "flora"}}, 'rule is "flora", expected keys of [rule], as rule.key = '),
        ({"x": {"federation": {"seed": 1}}}, "arm 'x': federation.seed is given beside"),
    ],
)
def test_arms_of_ones_own_are_tables_by_other_names(arms: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        comparison(arms)
    assert message in str(error.value)


def test_arms_that_cannot_be_played_are_told_all_at_once() -> None:
    """Each reason once, with the arms that it is true of; and before any data is read."""
    arms = {
        "a": {"rule": {"name": "flexlor"}},
        "b": {"rule": {"name": "hetlora", "gama": 1.0}},
        "c": {"rule": {"name": "flexlor"}},
    }
    with pytest.raises(ConfigError) as error:
        require_playable(comparison(arms, {"data": {"train_tasks": 10**9}}))
    assert "arms a, c: rule.name is 'flexlor'; did you mean 'flexlora'?" in str(error.value)
    assert "; and arm b: rule.gama is not an option of 'hetlora'" in str(error.value)


@pytest.mark.parametrize(
    ("evaluation", "compare", "message"),
    [
        ({"unseen": False}, {}, "evaluation.unseen is false, but compare.part is 'own'"),
        ({"own_examples": 0}, {}, "evaluation.own_examples is 0, but compare.part is 'own'"),
        ({"every": 0}, {"part": "validation"}, "evaluation.every is 0, but compare.part is"),
        (
            {"every": 0, "validation_examples": 0},
            {"rates": [1e-3, 1e-2], "tuning_seeds": [7]},
            "validation_examples is 0 but decide_by is 'server'",
        ),
        ({}, {"metric": "los"}, "did you mean 'loss'?"),
        ({}, {"state": "hihg"}, "compare.state is 'hihg', which is neither 'full' nor a type"),
        (
            {"metric": "loss"},
            {"metric": "rouge_l", "part": "validation"},
            "compare.metric is 'rouge_l', but runs score loss on validation examples",
        ),
    ],
)
def test_what_is_compared_has_to_be_scored(
    evaluation: dict[str, Any], compare: dict[str, Any], message: str
) -> None:
    with pytest.raises(FlexLoRAError) as error:
        require_playable(comparison(None, {"evaluation": evaluation}, **compare))
    assert message in str(error.value)
    assert not str(error.value).startswith("arm")  # True of all of them.


def test_every_run_scores_the_metric_and_is_decided_by_it_unless_the_config_says_else() -> None:
    asked = comparison(metric="token_loss")
    assert asked.arms[0].config(0).evaluation.metric == "token_loss"
    asked = comparison(None, {"evaluation": {"metric": "loss"}}, metric="token_loss")
    evaluation = asked.arms[0].config(0).evaluation
    assert (evaluation.metric, evaluation.metrics) == ("loss", ("loss", "token_loss"))


def test_a_rule_or_screen_that_cannot_be_collected_so_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Plain, "gives", "sum")
    with pytest.raises(ConfigError, match=r"norm_clip judges every client's change, .* sum alone"):
        require_playable(comparison(None, {"screens": {"norm_clip": {}}}))


def test_a_client_type_can_be_what_is_compared() -> None:
    require_playable(comparison(state="high"))


@pytest.mark.parametrize(("level", "seeds"), [(0.05, 6), (0.5, 2), (0.25, 3), (0.1, 5), (0.9, 2)])
def test_the_fewest_seeds_are_those_whose_smallest_p_reaches_the_level(
    level: float, seeds: int
) -> None:
    assert seeds_needed(level) == seeds
    assert 2.0 / 2**seeds <= level < 2.0 / 2 ** (seeds - 1)


def test_a_comparison_is_written_as_it_is_read(tmp_path: Path) -> None:
    asked = comparison({"a · b": {"rule": {"name": "flora"}}}, rates=[1, 2], tuning_seeds=[7])
    (tmp_path / "c.toml").write_text(asked.to_toml())
    again = load_comparison(tmp_path / "c.toml")
    assert again.settings == asked.settings
    assert [(x.name, x.tables) for x in again.arms] == [(x.name, x.tables) for x in asked.arms]
    assert document(rates=[1])["training"].keys() == asked.document["training"].keys()


def test_a_template_that_writes_the_date_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that are played on other days would be other runs."""
    monkeypatch.setattr("flexlora.comparing.checks.asks_for_the_date", lambda *_: True)
    with pytest.raises(ConfigError, match=r"would differ between cells .* set model.date, as 20"):
        list(previews(comparison()))
    list(previews(comparison(None, {"model": {"date": "2026-11-28"}})))
