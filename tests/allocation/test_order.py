"""Budget → ranks: a beginning of one order, so that more budget never gives less rank."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexlora.adapters import LayerSpec, Ranks
from flexlora.allocation.order import (
    Order,
    by_spectra,
    in_proportion,
    uniform,
    within_error,
)
from flexlora.errors import ConfigError

LAYERS = (
    LayerSpec("h.0.attn.q", 12, 12),
    LayerSpec("h.0.mlp.up", 32, 12),
    LayerSpec("h.1.attn.q", 12, 12),
    LayerSpec("h.1.mlp.up", 32, 12),
)
BYTES = {x.name: 4 * (x.m + x.n) for x in LAYERS}


def bytes_of(ranks: dict[str, int]) -> int:
    return sum(BYTES[name] * rank for name, rank in ranks.items())


def paid(order: Order, budget: int) -> dict[str, int] | None:
    return order.largest(lambda ranks: bytes_of(dict(ranks)) <= budget)


SPECTRA = st.lists(
    st.lists(st.floats(0, 100, allow_nan=False), max_size=16), min_size=4, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(
    SPECTRA,
    st.integers(0, 2),
    st.lists(st.integers(0, 8_000), min_size=2, max_size=5),
)
def test_more_budget_never_gives_less_rank_in_any_layer(
    values: list[list[float]], kind: int, budgets: list[int]
) -> None:
    spectra = {x.name: found for x, found in zip(LAYERS, values, strict=True)}
    order = (uniform(LAYERS), in_proportion(LAYERS), by_spectra(LAYERS, spectra))[kind]
    given_ranks = [paid(order, budget) for budget in sorted(budgets)]
    for budget, ranks in zip(sorted(budgets), given_ranks, strict=True):
        least = bytes_of({x.name: 1 for x in LAYERS})
        assert (ranks is None) == (budget < least)
        if ranks is not None:
            assert bytes_of(ranks) <= budget
            assert all(1 <= ranks[x.name] <= x.largest_rank for x in LAYERS)
    held = [ranks for ranks in given_ranks if ranks is not None]
    for less, more in pairwise(held):
        assert all(less[x.name] <= more[x.name] for x in LAYERS)


@settings(max_examples=60, deadline=None)
@given(SPECTRA, st.integers(0, 2), st.integers(1, 8_000))
def test_a_budget_is_used_up_to_the_next_step(
    values: list[list[float]], kind: int, budget: int
) -> None:
    spectra = {x.name: found for x, found in zip(LAYERS, values, strict=True)}
    order = (uniform(LAYERS), in_proportion(LAYERS), by_spectra(LAYERS, spectra))[kind]
    by_hand = None
    for steps in range(1, len(order.steps) + 1):
        if bytes_of(order.ranks(steps)) <= budget:
            by_hand = order.ranks(steps)
    assert paid(order, budget) == by_hand


def test_uniform_is_one_rank_for_all_as_far_as_layers_go() -> None:
    layers = (LayerSpec("a", 8, 3), LayerSpec("b", 8, 8))
    order = uniform(layers)
    assert order.ranks(2) == {"a": 2, "b": 2}
    assert order.ranks(len(order.steps)) == {"a": 3, "b": 8}
    assert uniform(layers, most=5).ranks(99) == {"a": 3, "b": 5}


def test_ffn_first_keeps_the_proportion_of_the_papers_type_3() -> None:
    layers = (LayerSpec("attn.q", 512, 512), LayerSpec("mlp.up", 1024, 512))
    order = in_proportion(layers)
    assert order.ranks(200) == Ranks.of({"attention": 30, "all": 200}).resolve(layers)
    assert order.ranks(1) == {"attn.q": 1, "mlp.up": 1}
    assert order.ranks(20) == {"attn.q": 3, "mlp.up": 20}


def test_by_spectra_the_next_rank_is_where_a_byte_buys_the_most_energy() -> None:
    """Against the largest sum of energy for the bytes, by hand: q is half as large as up."""
    layers = (LayerSpec("q", 4, 4), LayerSpec("up", 12, 4))
    order = by_spectra(layers, {"q": [9, 3, 2], "up": [9, 4, 1]})
    # Energy a byte of the second and third ranks: q 9/8, 4/8; up 16/16, 1/16.
    assert [set(step) for step in order.steps[:5]] == [{"q", "up"}, {"q"}, {"up"}, {"q"}, {"up"}]
    assert order.ranks(len(order.steps)) == {"q": 4, "up": 4}


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_spectrum_that_is_none_is_refused(value: float) -> None:
    layers = (LayerSpec("q", 4, 4),)
    with pytest.raises(ConfigError, match="spectrum of layer q holds"):
        by_spectra(layers, {"q": [value]})
    with pytest.raises(ConfigError, match="layer q has no spectrum"):
        by_spectra(layers, {})


@settings(max_examples=60, deadline=None)
@given(SPECTRA, st.floats(0.01, 0.99), st.integers(1, 12))
def test_ranks_by_error_leave_no_more_out_than_allowed_and_stay_within_ones_own(
    spectra: list[list[float]], share: float, own: int
) -> None:
    """And what they leave out is what a best approximation of these ranks leaves."""
    given_ = {x.name: values for x, values in zip(LAYERS, spectra, strict=True)}
    most = {x.name: min(own, x.largest_rank) for x in LAYERS}
    ranks, error = within_error(LAYERS, given_, most, share)
    ordered = {name: sorted(values, reverse=True) for name, values in given_.items()}
    total = sum(x**2 for values in spectra for x in values)
    beyond = sum(x**2 for name, values in ordered.items() for x in values[ranks[name] :])
    assert all(1 <= ranks[name] <= most[name] for name in most)
    assert error**2 == pytest.approx(beyond, rel=1e-6, abs=1e-9)
    assert beyond <= share * total * (1 + 1e-6) + 1e-9 or ranks == most
    if total == 0.0:
        assert ranks == most
    less, _ = within_error(LAYERS, given_, most, min(0.999, share * 1.5))
    assert all(less[name] <= ranks[name] for name in ranks) or total == 0.0
