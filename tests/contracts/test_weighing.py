"""Weights: what a rule weighs by, and that they sum to 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from contracts.cases import every
from flexlora.errors import RoundError, RuleError
from flexlora.rules import Rule, Summary, Traits, normalised
from flexlora.rules.flexlora import FlexLoRA


@every()
def test_weights_sum_to_1_and_grow_with_what_is_weighed(rule: Rule) -> None:
    found = rule.weigh([Summary("ann", 3, 0.4), Summary("bob", 5, 1.2), Summary("cyd", 0, 0.0)])
    # By norms, too, which no law doubles: it doubles what the server is told of examples.
    many = rule.weigh([Summary("ann", 21, 2.8), Summary("bob", 35, 8.4), Summary("cyd", 0, 0.0)])
    assert found == pytest.approx(many)
    assert sum(found.values()) == pytest.approx(1.0)
    assert set(found) == {"ann", "bob", "cyd"}
    assert found["cyd"] == 0.0
    assert found["bob"] > found["ann"] > 0.0


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


@every()
def test_weights_come_in_the_order_of_the_clients(rule: Rule) -> None:
    class Backwards(type(rule)):  # type: ignore[misc]
        def weigh(self, summaries: Sequence[Summary]) -> dict[str, float]:
            return dict(reversed(super().weigh(summaries).items()))

    backwards = object.__new__(Backwards)
    backwards.__dict__.update(rule.__dict__)
    given = [Summary("ann", 3, 0.4), Summary("bob", 5, 1.2), Summary("cyd", 1, 0.0)]
    assert list(backwards.weights(given).items()) == list(rule.weigh(given).items())


def weighing(weights: Mapping[str, float]) -> Rule:
    class Odd(FlexLoRA):  # type: ignore[misc]  # It is final.
        def weigh(self, summaries: Sequence[Summary]) -> dict[str, float]:
            return dict(weights)

    return Odd()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"ann": 1.0}, "gives no weight to client bob; weigh all clients of the round, no others"),
        ({"ann": 0.5, "bob": 0.5, "eve": 0.0}, "weighs a stranger, client eve; weigh all clients"),
        ({"ann": 1.5, "bob": -0.5}, "gives client bob the weight -0.5; give finite weights"),
        ({"ann": 1.0, "bob": float("nan")}, "gives client bob the weight nan; give finite"),
        ({"ann": float("inf"), "bob": 0.0}, "gives client ann the weight inf; give finite"),
        ({"ann": 3.0, "bob": 1.0}, "the weights of rule flexlora sum to 4, expected 1; divide"),
        ({"ann": 0.0, "bob": 0.0}, "the weights of rule flexlora sum to 0, expected 1; divide"),
    ],
)
def test_what_cannot_be_weights_of_the_round_is_refused(
    weights: dict[str, float], message: str
) -> None:
    with pytest.raises(RuleError, match=message):
        weighing(weights).weights([Summary("ann", 3, 0.4), Summary("bob", 5, 1.2)])


def test_a_rule_that_weighs_by_what_it_did_not_declare_fails() -> None:
    class Nosy(FlexLoRA):  # type: ignore[misc]  # It is final.
        def weigh(self, summaries: Sequence[Summary]) -> dict[str, float]:
            return normalised({s.client: s.norm for s in summaries})

    given = [Summary("ann", 3, 0.4), Summary("bob", 5, 1.2)]
    with pytest.raises(RuleError, match=r"flexlora asked for the norm .*; declare needs='each'"):
        Nosy().weights(given)
    Nosy.traits = Traits(needs="each")
    assert Nosy().weights(given) == pytest.approx({"ann": 0.25, "bob": 0.75})
