"""Frozen factors side by side: every row gets its own client's branch, whoever comes and goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flexlora.models.carried import Carried
from flexlora.models.lora import LoRALinear
from flexlora.models.standing import Form
from models.layers import CLIENTS, KINDS, M, N, carry, draw, factors, make


def by_hand(layer: LoRALinear, x: Tensor, owners: list[int], signs: float = 1.0) -> Tensor:
    """The dense formula, row by row, of the layer without clients."""
    layer.carry(None)
    plain = layer(x)
    updates = [CLIENTS[k].product().dense() * signs for k in owners]
    return plain + torch.stack([u @ row for u, row in zip(updates, x, strict=True)])


def frozen(layer: LoRALinear, *, stacked: bool = False, origin: bool = False) -> Carried:
    carried = carry(layer, CLIENTS, stacked=stacked, origin=origin, dropout=0.5)
    carried.freeze()
    return carried


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("form", [None, "branch", "dense", "merged"])
def test_a_row_each_is_the_dense_formula(kind: str, stacked: bool, form: Form | None) -> None:
    layer = make(kind)
    if form is not None:
        layer.set_delta(factors(2, 9).product(), form=form)
    for shares in [(1, 1, 1), (2, 0, 3), (0, 4, 0), (5, 1, 1), (0, 0, 1)]:
        owners = [k for k, share in enumerate(shares) for _ in range(share)]
        x = draw(len(owners), N, seed=sum(shares))
        wanted = by_hand(layer, x, owners)
        carried = frozen(layer, stacked=stacked)
        carried.share(shares)
        with torch.no_grad():
            assert torch.allclose(layer(x), wanted, atol=1e-9)
            longer = x[:, None].expand(-1, 3, -1)  # More rows than one each: not joined.
            assert torch.allclose(layer(longer)[:, 1], wanted, atol=1e-9)


def test_many_rows_a_client_are_not_joined_where_that_is_said() -> None:
    layer, shares = make(), (2, 0, 3)
    x = draw(5, N, seed=1)
    wanted = by_hand(layer, x, [0, 0, 2, 2, 2])
    carried = frozen(layer)
    carried.share(shares, joins=False)
    layer.carry(carried)
    with torch.no_grad():
        assert carried.joined("layer", 5) is None
        assert torch.allclose(layer(x), wanted, atol=1e-9)
        carried.share(shares)
        assert carried.joined("layer", 5) is not None


def test_clients_come_and_go_and_their_copies_with_them() -> None:
    layer = make()
    carried = frozen(layer)
    sizes: list[int] = []
    for shares in [(2, 2, 2), (2, 1, 2), (2, 1, 0), (1, 0, 0), (0, 1, 2)]:
        owners = [k for k, share in enumerate(shares) for _ in range(share)]
        x = draw(len(owners), N, seed=len(sizes))
        wanted = by_hand(layer, x, owners)
        layer.carry(carried)
        carried.share(shares)
        with torch.no_grad():
            assert torch.allclose(layer(x), wanted, atol=1e-9)
            joined = carried.joined("layer", len(owners))
        assert joined is not None
        sizes.append(joined.a.shape[0])
    ranks = [client.rank for client in CLIENTS]
    assert sizes == [sum(ranks)] * 3 + [ranks[0], ranks[1] + ranks[2]]


def test_the_origin_is_subtracted_with_its_own_scale() -> None:
    layer = make()
    x = draw(3, N)
    carried = frozen(layer, origin=True)
    for held in carried.trainables:
        held.vector.data *= 2.0  # Twice both factors: four times the product.
    carried.freeze()
    with torch.no_grad():
        found = layer(x)
    assert torch.allclose(found, by_hand(layer, x, [0, 1, 2], signs=3.0), atol=1e-9)


def test_a_row_that_is_not_finite_is_its_own_clients_alone() -> None:
    layer = make()
    carried = frozen(layer)
    carried.share((2, 0, 1))
    x = draw(3, N)
    wanted = by_hand(layer, x, [0, 0, 2])
    layer.carry(carried)
    x[1] = torch.nan
    with torch.no_grad():
        found = layer(x)
    assert torch.allclose(found[[0, 2]], wanted[[0, 2]], atol=1e-9)
    assert bool(found[1].isnan().all())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("side", ["a", "bt"])
def test_factors_that_are_not_finite_are_their_own_clients_alone(bad: float, side: str) -> None:
    layer = make()
    carried = frozen(layer)
    carried.share((2, 1, 1))
    x = draw(4, N)
    wanted = by_hand(layer, x, [0, 0, 1, 2])
    layer.carry(carried)
    for pair in carried.trainables[1].pairs.values():
        getattr(pair, side)[: pair.rank] = bad
    with torch.no_grad():
        found = layer(x)
    assert torch.allclose(found[[0, 1, 3]], wanted[[0, 1, 3]], atol=1e-9)
    assert not bool(found[2].isfinite().any())


def test_nothing_is_joined_that_may_still_change() -> None:
    layer = make()
    carried = carry(layer, CLIENTS)
    with torch.no_grad():
        assert carried.joined("layer", 3) is None  # Not frozen.
    carried.freeze()
    assert carried.joined("layer", 3) is None  # Gradients are wanted.
    with torch.no_grad():
        assert carried.joined("layer", 6) is None
        assert carried.joined("layer", 3) is not None
        carried.keep([0, 2])
        assert carried.joined("layer", 2) is None
    assert layer(draw(2, N)).shape == (2, M)
