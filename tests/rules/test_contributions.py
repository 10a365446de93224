"""What a rule is told of a round: means of factors that mean the same, and no sum of nothing."""

from __future__ import annotations

import pytest
import torch

from flexlora.adapters import Factors, Sides
from flexlora.errors import RuleError
from flexlora.rules import Contribution, Listed
from reference import assert_close, gaussian


def factors(rank: int = 2, scale: float = 2.0, seed: int = 0) -> Factors:
    return Factors(gaussian(6, rank, seed=seed), gaussian(rank, 5, seed=seed + 9), scale)


def listed(*trained: Factors) -> Listed:
    return Listed([Contribution.of(str(k), 1 / len(trained), f) for k, f in enumerate(trained)])


@pytest.mark.parametrize("sides", ["both", "a", "b"])
def test_the_mean_is_of_the_sides_that_all_returned(sides: Sides) -> None:
    one, other = factors(seed=1), factors(seed=2)
    mean = listed(one.only(sides), other.only(sides)).mean_factors()
    assert (mean.sides, mean.scale) == (sides, 2.0)
    for side in "ba" if sides == "both" else sides:
        assert_close(getattr(mean, side), (getattr(one, side) + getattr(other, side)) / 2, 1e-6)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (factors(rank=3), "at ranks 2, 3; declare mixed_ranks=False, or go through each"),
        (factors(scale=1.0), "at scales 1.0, 2.0; send all clients one scale, or go through"),
        (factors().only("b"), "at sides b, both; return the same of all clients, or go through"),
        (factors().only("a"), "at sides a, both; return the same of all clients, or go through"),
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_factors_that_mean_something_else_have_no_mean(
    odd: Factors, message: str, last: bool
) -> None:
    """Whoever comes last."""
    given = [factors(), factors(seed=3)]
    given.insert(2 if last else 0, odd)
    with pytest.raises(RuleError, match=message):
        listed(*given).mean_factors()


def test_a_layer_without_contributions_is_a_fault_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="of at least one client"):
        Listed([])


def test_both_sums_are_the_weighted_sum_of_updates() -> None:
    parts = [
        Contribution.of("a", 0.25, factors(seed=1, scale=0.3), factors(seed=2, scale=0.3)),
        Contribution.of("b", 0.75, factors(rank=3, seed=3, scale=0.7)),
    ]
    wanted = sum((c.weight * c.update().dense() for c in parts), torch.zeros(6, 5))
    for rank in (None, 1, 6):
        found = Listed(parts).sum(rank)
        assert_close(found.dense(), wanted, 1e-6)


def test_an_origin_that_is_zero_makes_no_sum_wider() -> None:
    """As where B begins at zero: what it is taken from is what was trained."""
    trained, begun = factors(seed=1), factors(seed=2)
    zero = Factors(torch.zeros_like(begun.b), begun.a, begun.scale)
    none = Contribution.of("a", 1.0, trained, zero)
    some = Contribution.of("a", 1.0, trained, begun)
    assert (none.width, some.width) == (2, 4)
    assert (none.update().width, some.update().width) == (2, 4)
    assert (len(list(none.parts())), len(list(some.parts()))) == (1, 2)
    assert torch.equal(none.update().dense(), trained.product().dense())
