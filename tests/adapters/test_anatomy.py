"""What an adapter holds, against dense float64."""

from __future__ import annotations

import pytest
import torch

from flexlora.adapters import Adapter, Factors, dissect
from flexlora.adapters.anatomy import kinds
from flexlora.errors import AdapterError
from flexlora.lowrank import effective_rank
from reference import gaussian, product


def factors(rank: int, seed: int = 0, scale: float = 0.5, m: int = 9, n: int = 7) -> Factors:
    return Factors(gaussian(m, rank, seed=seed), gaussian(rank, n, seed=seed + 99), scale)


def test_every_layer_is_measured_exactly() -> None:
    adapter = Adapter({"x.q": factors(3), "x.k": factors(1, seed=1, scale=-2.0)})
    for layer in dissect(adapter):
        given = adapter[layer.name]
        sigma = torch.linalg.svdvals(product(given))[: given.rank]
        assert layer.singular_values == pytest.approx(sigma.tolist(), rel=1e-5)
        assert layer.norm == pytest.approx(float(product(given).norm()), rel=1e-5)
        assert layer.effective_rank == pytest.approx(effective_rank(sigma), rel=1e-4)
        assert (layer.m, layer.n, layer.rank, layer.scale) == (9, 7, given.rank, given.scale)
        assert (layer.parameters, layer.nbytes) == (16 * given.rank, 64 * given.rank)
        assert layer.dtype == "float32"


def test_directions_that_are_not_used_do_not_count() -> None:
    one = factors(2)
    doubled = Factors(torch.cat([one.b, one.b], 1), torch.cat([one.a, one.a]), 0.25)
    none = Factors(torch.zeros(9, 4), gaussian(4, 7), 1.0)
    empty = Factors(torch.zeros(9, 0), torch.zeros(0, 7), 1.0)
    twice, still, no_rank = dissect(Adapter({"a": doubled, "b": none, "c": empty}))
    assert (twice.rank, len(twice.singular_values)) == (4, 2)
    for layer in (still, no_rank):
        assert (layer.singular_values, layer.norm, layer.effective_rank) == ((), 0.0, 0.0)


def test_layers_come_in_the_order_of_blocks() -> None:
    names = [f"h.{i}.{kind}" for i in (10, 2, 0) for kind in ("q", "up_4h")]
    layers = dissect(Adapter({name: factors(1) for name in names}))
    assert [x.name for x in layers[:3]] == ["h.0.q", "h.0.up_4h", "h.2.q"]
    groups = kinds(layers)
    assert list(groups) == ["h.*.q", "h.*.up_4h"]
    assert [x.name for x in groups["h.*.q"]] == ["h.0.q", "h.2.q", "h.10.q"]


def test_dtypes_are_named() -> None:
    mixed = Factors(torch.ones(9, 1, dtype=torch.float16), torch.ones(1, 7).bfloat16(), 1.0)
    (layer,) = dissect(Adapter({"a": mixed}))
    assert (layer.dtype, layer.nbytes) == ("bfloat16 and float16", 32)


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(AdapterError, match="layer bad of the adapter holds NaN"):
        dissect(Adapter({"bad": Factors(torch.ones(2, 1) * torch.nan, torch.ones(1, 2), 1.0)}))
    large = Factors(torch.ones(2, 1) * 1e30, torch.ones(1, 2) * 1e30, 1.0)
    with pytest.raises(AdapterError, match=r"layer bad of .* above what float32 holds"):
        dissect(Adapter({"bad": large}))


def test_layers_stand_in_the_order_of_their_numbers_whatever_stands_for_a_digit() -> None:
    """ "²" is a digit and no decimal; a number may have more digits than Python converts."""
    names = ["x.1²2", "x.2", "x.10", "x.10a", "x.²", "x." + "9" * 5000, "x.٣"]
    wanted = ["x.1²2", "x.2", "x.10", "x.10a", "x." + "9" * 5000, "x.²", "x.٣"]
    found = dissect(Adapter({name: factors(1) for name in reversed(names)}))
    assert [layer.name for layer in found] == wanted
