"""Weights that sum to 1, and the bits of those that did already."""

from __future__ import annotations

import pytest

from flexlora.rules import Summary, normalised
from flexlora.rules.weights import ExamplesOf


@pytest.mark.parametrize("large", [1e308, 1.7e308, 1e200])
def test_weights_whose_sum_is_too_large_are_divided_all_the_same(large: float) -> None:
    found = normalised({"a": large, "b": large / 2, "c": large / 2, "d": 0.0})
    assert found == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.25, "d": 0.0})


def test_others_are_divided_by_their_plain_sum() -> None:
    given = {"a": 40.0, "b": 10.0, "c": 30.1}
    whole = sum(given.values())
    assert normalised(given) == {client: weight / whole for client, weight in given.items()}


def test_a_summary_without_its_norm_can_be_shown() -> None:
    assert repr(ExamplesOf(Summary("a", 3, 0.5), "mine")) == "ExamplesOf(client='a', examples=3)"
