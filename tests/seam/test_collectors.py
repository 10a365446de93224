"""The loop's collector comes from outside, and says what it gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexlora.config.settings import rule_of
from flexlora.errors import ConfigError
from flexlora.federation import Setup, run, session
from flexlora.federation.collector import require_collectable
from flexlora.rules import RULES, make_rule
from flexlora.runs.readout import load_state
from flexlora.runs.run_directory import Run
from reference import assert_all_close, learned, one_of_each
from seam.examples import EXAMPLES
from seam.sums_only import SumsOnly
from small import small

UNDER_TEST = {rule.name: rule for rule in [*RULES.values(), *EXAMPLES]}
# What sums are made of, and what becomes of them, hangs on these traits alone; that no rule asks
# for more than it declares is a contract of all.
SUMS = [
    name
    for name in [
        *one_of_each("needs", "delta", "memory", "mixed_ranks"),
        *(r.name for r in EXAMPLES),
    ]
    if UNDER_TEST[name].traits.needs == "sum"
]
EACH = sorted(name for name, rule in UNDER_TEST.items() if rule.traits.needs == "each")


def collecting_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "Plain", lambda _folder, rule, _known: SumsOnly(rule))


@pytest.mark.parametrize("name", SUMS)
def test_a_rule_that_declares_sums_is_the_same_where_nothing_else_is_given(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = small(
        rule={"name": name},
        federation={"rounds": 2, "clients_per_round": 4},
        evaluation={"unseen": False, "on_clients": "off"},
    )
    plain = run(config, tmp_path / "plain", setup=setup).folder
    collecting_sums(monkeypatch)
    summed = run(config, tmp_path / "summed", setup=setup).folder
    rule = rule_of(config.rule)
    one, other = (load_state(Run.open(folder), "last") for folder in (plain, summed))
    assert one.round == other.round == 2
    assert_all_close(learned(rule, other), learned(rule, one), 2e-3)
    records = zip(Run.open(plain).read_metrics(), Run.open(summed).read_metrics(), strict=True)
    for ours, theirs in records:
        assert theirs["train_loss"] == pytest.approx(ours["train_loss"], rel=1e-4)
        assert theirs["bytes_up"] == ours["bytes_up"]


@pytest.mark.parametrize("name", EACH)
def test_every_other_is_refused_before_anything_trains(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    collecting_sums(monkeypatch)
    with pytest.raises(
        ConfigError, match=f"rule {name} needs every client's contribution"
    ) as error:
        run(small(rule={"name": name}), tmp_path / "r", setup=setup)
    assert "\n" not in str(error.value)
    assert Run.open(tmp_path / "r").read_metrics() == []


def test_so_is_a_screen_that_judges(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collecting_sums(monkeypatch)
    config = small(screens={"norm_clip": {}})
    with pytest.raises(ConfigError, match=r"screen norm_clip judges .*; leave screens.norm_clip"):
        run(config, tmp_path / "r", setup=setup)


def test_how_much_clients_agree_is_not_to_be_had_of_sums() -> None:
    rule = make_rule("flexlora")
    with pytest.raises(ConfigError, match=r"federation.agreement needs every client's change"):
        require_collectable(rule, SumsOnly(rule), agreement=True)
    with pytest.raises(ConfigError, match=r"federation.over_sample is 1.5, which leaves out"):
        require_collectable(rule, SumsOnly(rule), over_sample=1.5)
    require_collectable(rule, SumsOnly(rule))
