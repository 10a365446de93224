"""Weights: what a rule weighs by, and that they sum to 1."""

from __future__ import annotations

import pytest

from contracts.cases import every
from flexlora.errors import RoundError
from flexlora.rules import Rule, Summary


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
