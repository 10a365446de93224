"""The laws that anybody can hold an aggregator to, of every rule and the options worth a trial."""

from __future__ import annotations

import pytest

from contracts.cases import UNDER_TEST, every
from flexlora.laws import CASES, LAWS, Law, excuses, hold, of_rule
from flexlora.rules import Rule

# All of them are tried where the table of the registered rules is: tests/laws/test_of_rule.py.
FEW = [next(x for x in CASES if not x.later), next(x for x in CASES[::-1] if x.later)]


@every()
@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_a_law_holds_unless_the_traits_excuse_it(rule: Rule, law: Law) -> None:
    verdict = hold(of_rule(rule), law, FEW, excuse=excuses(rule).get(law.name, ""))
    assert verdict.standing != "fails", "\n".join(verdict.counterexample)


@pytest.mark.parametrize("rule", [made() for made in UNDER_TEST], ids=lambda rule: rule.name)
def test_no_rule_is_excused_from_a_law_that_it_keeps(rule: Rule) -> None:
    """But for the one about scales, which the wrapper keeps for a rule that has one scale."""
    for name in excuses(rule).keys() - {"scale"}:
        assert hold(of_rule(rule), LAWS[name], FEW).standing == "fails", f"{rule.name}: {name}"
