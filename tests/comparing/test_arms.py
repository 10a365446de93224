"""Which arms a config names, what each is called, and what it is played with."""

from __future__ import annotations

import pytest

from comparing.comparisons import comparison
from flexlora.comparing.arms import Arm, slug


def arms(*given: object, **compare: object) -> dict[str, Arm]:
    return {arm.name: arm for arm in comparison(*given, **compare).arms}


def test_rules_mixes_and_hosts_are_crossed_and_named_by_what_differs() -> None:
    found = arms(mixes=["uniform", "normal"], hosts=["fedavg", "fedit"])
    assert list(found)[:3] == [
        "flexlora · uniform · fedavg",
        "flexlora · uniform · fedit",
        "flexlora · normal · fedavg",
    ]
    assert len(found) == 8
    config = found["fedit · normal · fedavg"].config(3)
    assert (config.rule.name, config.clients.mix) == ("fedit", "normal")
    assert (config.training.host, config.federation.seed) == ("fedavg", 3)


def test_sparse_rounds_that_all_share_are_of_slora_alone() -> None:
    shared = {"training": {"sparse_rounds": 1}}
    found = arms(None, shared, hosts=["fedit", "slora"], controls=["local"])
    asked = {x: arm.config(0).training.sparse_rounds for x, arm in found.items()}
    assert asked == {
        "flexlora · fedit": None,
        "flexlora · slora": 1,
        "fedit · fedit": None,
        "fedit · slora": 1,
        "local · fedit": None,
        "local · slora": 1,
    }


def test_one_mix_and_one_host_are_those_of_every_arm_and_in_no_name() -> None:
    found = arms({"x": {"rule": {"name": "flora"}}}, mixes=["normal"], hosts=["fedavg"])
    assert list(found) == ["flexlora", "fedit", "x"]
    assert {arm.config(0).clients.mix for arm in found.values()} == {"normal"}
    assert {arm.config(0).training.host for arm in found.values()} == {"fedavg"}


def test_controls_are_arms_of_the_first_rule() -> None:
    names = ["base", "lowest", "highest", "local", "centralised"]
    found = arms(rules=["flexlora-increment", "fedit"], controls=names)
    assert list(found) == ["flexlora-increment", "fedit", *names]
    configs = {name: found[name].config(0) for name in names[1:]}
    assert {config.rule.name for config in configs.values()} == {"flexlora-increment"}
    assert configs["lowest"].clients.level == "lowest"
    assert configs["highest"].clients.level == "highest"
    assert configs["local"].federation.mode == "local"
    assert configs["centralised"].federation.mode == "centralised"
    assert configs["centralised"].evaluation.on_clients == "off"
    assert [arm.name for arm in found.values() if not arm.played] == ["base"]


def test_controls_come_once_for_each_host_and_local_for_each_mix() -> None:
    asked = {"controls": ["base", "lowest", "local"], "mixes": ["uniform", "normal"]}
    found = arms(hosts=["fedavg", "fedit"], rules=["fedit"], **asked)
    assert list(found)[4:] == [
        "base",
        "lowest · fedavg",
        "lowest · fedit",
        "local · uniform · fedavg",
        "local · uniform · fedit",
        "local · normal · fedavg",
        "local · normal · fedit",
    ]


def test_options_are_those_of_the_rule_that_is_named() -> None:
    """Those of [rule] are no options of another rule."""
    found = arms(
        {"own": {"rule": {"gamma": 0.5}}, "other": {"rule": {"name": "flora"}}},
        {"rule": {"name": "hetlora", "gamma": 0.9}},
        rules=["hetlora", "fedit"],
        controls=["lowest"],
    )
    options = {name: arm.config(0).rule.options for name, arm in found.items()}
    assert options["hetlora"] == options["lowest"] == {"gamma": 0.9}
    assert options["own"] == {"gamma": 0.5}
    assert options["fedit"] == options["other"] == {}


def test_a_rate_and_changes_come_on_top() -> None:
    arm = arms(rates=[1e-3])["fedit"]
    config = arm.config(5, 0.25, {"evaluation": {"unseen": False}})
    assert config.training.learning_rate == 0.25
    assert not config.evaluation.unseen
    assert arm.config(5).evaluation.unseen


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "", ".", "..", "x · y", "A", "a" * 300, "\0", "é"]
)
def test_a_slug_is_one_plain_name_whatever_the_arm_is_called(name: str) -> None:
    made = slug(name)
    assert made.isascii()
    assert not set(made) - set("abcdefghijklmnopqrstuvwxyz0123456789._+=-")
    assert 0 < len(made) < 100
    assert not made.startswith(".")


def test_slugs_differ_where_names_do_and_plain_names_are_their_own() -> None:
    names = ["x · y", "x - y", "x-y", "X-y", "x/y", "x-y "]
    assert len({slug(name).lower() for name in names}) == len(names)
    assert slug("flexlora-increment") == "flexlora-increment"
