"""Factors and Adapter: what is trained, and how it becomes a product."""

from __future__ import annotations

import math

import pytest
import torch

from flexlora.adapters import Adapter, Factors, Sides
from flexlora.errors import AdapterError
from reference import as_in_production, assert_close, dense, gaussian, product


def factors(m: int = 5, n: int = 4, rank: int = 3, scale: float = 2.5, seed: int = 0) -> Factors:
    return Factors(gaussian(m, rank, seed=seed), gaussian(rank, n, seed=seed + 1), scale)


def test_the_product_folds_the_scale_in() -> None:
    pair = factors()
    assert (pair.rank, pair.shape) == (3, (5, 4))
    assert pair.product().width == 3
    assert_close(dense(pair.product()), 2.5 * pair.b.double() @ pair.a.double(), 1e-6)


def test_the_product_of_half_precision_is_taken_in_float32() -> None:
    whole = factors(scale=1.0 / 3.0)
    half = Factors(whole.b.bfloat16(), whole.a.bfloat16(), whole.scale)
    assert half.product().left.dtype == torch.float32
    assert_close(dense(half.product()), product(half), 1e-6)
    assert half.b.dtype == torch.bfloat16


def test_float64_stays_float64() -> None:
    pair = Factors(factors().b.double(), factors().a.double(), 1.0 / 3.0)
    assert_close(dense(pair.product()), product(pair), 1e-15)


def test_cutting_keeps_the_first_directions_at_the_same_scale() -> None:
    pair = factors()
    cut = pair.cut(2)
    assert (cut.rank, cut.scale) == (2, pair.scale)
    assert torch.equal(cut.b, pair.b[:, :2])
    assert torch.equal(cut.a, pair.a[:2])
    assert pair.cut(9).rank == 3


def test_factors_of_different_ranks_are_refused() -> None:
    with (
        as_in_production(),
        pytest.raises(AdapterError, match=r"of one rank; got \(5, 3\) and \(2, 4\)"),
    ):
        Factors(torch.zeros(5, 3), torch.zeros(2, 4), 1.0)
    with as_in_production(), pytest.raises(AdapterError, match="need b"):
        Factors(torch.zeros(5), torch.zeros(1, 4), 1.0)


def test_an_adapter_is_a_mapping_in_name_order() -> None:
    adapter = Adapter({"y": factors(rank=2), "x": factors(rank=3)}, "tiny")
    assert list(adapter) == ["x", "y"]
    assert adapter.base == "tiny"
    assert adapter.ranks == {"x": 3, "y": 2}
    assert adapter.parameters == (5 + 4) * (3 + 2)
    assert repr(adapter) == "Adapter(2 layers, ranks [2, 3], 45 parameters)"
    assert "z" not in adapter


def test_an_adapter_does_not_follow_the_mapping_it_was_made_of() -> None:
    layers = {"x": factors()}
    adapter = Adapter(layers)
    layers["y"] = factors()
    assert list(adapter) == ["x"]


def test_the_norm_is_over_all_layers() -> None:
    adapter = Adapter({"x": factors(seed=1), "y": factors(m=7, seed=5)})
    wanted = math.sqrt(sum(float(product(f).square().sum()) for f in adapter.values()))
    assert adapter.norm() == pytest.approx(wanted, rel=1e-6)
    assert Adapter({}).norm() == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["b", "a", "scale"])
def test_the_first_layer_that_is_not_finite_is_named(bad: float, where: str) -> None:
    good = factors()
    b, a, scale = good.b.clone(), good.a.clone(), good.scale
    if where == "scale":
        scale = bad
    else:
        (b if where == "b" else a)[0, 0] = bad
    odd = Factors(b, a, scale)
    assert good.finite()
    assert not odd.finite()
    Adapter({"w": good}).require_finite()
    with pytest.raises(AdapterError, match="layer x of the adapter holds NaN or infinity"):
        Adapter({"w": good, "y": odd, "x": odd}).require_finite()


def test_an_absent_side_has_a_shape_and_no_numbers() -> None:
    whole = Factors(torch.ones(5, 2), torch.ones(2, 3), 0.5)
    cases: list[tuple[Sides, Sides, int]] = [("b", "a", 10), ("a", "b", 6)]
    for sides, other, numbers in cases:
        half = whole.only(sides)
        assert (half.sides, half.numbers) == (sides, numbers)
        assert (half.shape, half.rank, half.scale) == ((5, 3), 2, 0.5)
        assert half.only(sides) is half
        assert half.cut(1).sides == sides
        assert half.cut(1).shape == (5, 3)
        assert half.finite()
        for multiplied in (half.product, half.unscaled):
            with pytest.raises(AdapterError, match=f"of 5 × 3 hold {sides} alone, which is no upd"):
                multiplied()
        with pytest.raises(AdapterError, match="factors lack both sides"):
            half.only(other)
        held = Adapter({"x": whole}, "tiny").only(sides)
        assert (held.parameters, held.ranks, held.base) == (numbers, {"x": 2}, "tiny")
        held.require_finite()
    assert whole.only("both") is whole
    assert whole.sides == "both"


def test_an_absent_side_is_filled_with_the_first_directions_of_another() -> None:
    whole = Factors(torch.randn(5, 3), torch.randn(3, 4), 0.5)
    other = Factors(torch.zeros(5, 3), torch.zeros(3, 4), 0.5)
    filled = whole.cut(2).only("b").filled(other)
    assert torch.equal(filled.b, whole.b[:, :2])
    assert filled.a.shape == (2, 4)
    assert not filled.a.any()
    assert torch.equal(whole.only("a").filled(whole).b, whole.b)
    assert whole.filled(other) is whole
    assert whole.only("b").filled(other.only("b")).sides == "b"
    held = Adapter({"x": whole.only("a"), "y": whole.only("b")}).filled({"x": other})
    assert (held["x"].sides, held["y"].sides) == ("both", "b")


def test_an_absent_side_is_filled_with_zeros() -> None:
    whole = factors()
    for side in ("a", "b"):
        filled = whole.only(side).zero_filled()
        assert filled.sides == "both"
        assert torch.equal(getattr(filled, side), getattr(whole, side))
        assert filled.product().norm() == 0.0
    assert torch.equal(whole.zero_filled().b, whole.b)
