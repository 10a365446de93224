"""Masks by a seed: nested, of the adapter's own density, and values that travel alone."""

from __future__ import annotations

import pytest
import torch

from flexlora.adapters import LayerSpec, Payload
from flexlora.adapters.sparse import (
    payload_values,
    places,
    spread,
    values_payload,
    weights_for,
)
from flexlora.errors import AdapterError
from flexlora.formats.payloads import from_bytes, to_bytes

LAYER = LayerSpec("x.q_proj", 40, 30)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_mask_is_as_dense_as_the_adapters_share_of_the_layer(rank: int) -> None:
    share = (40 + 30) * rank / (40 * 30)
    assert weights_for(LAYER, rank) / (40 * 30) == pytest.approx(share)
    assert weights_for(LAYER, 30) == 40 * 30  # Never more than there are.


def test_masks_are_nested_and_name_no_weight_twice() -> None:
    whole = places(LAYER, 1200, seed=7)
    assert sorted(whole.tolist()) == list(range(1200))
    for rank in (1, 2, 5):
        count = weights_for(LAYER, rank)
        assert torch.equal(places(LAYER, count, seed=7), whole[:count])


def test_a_mask_follows_from_seed_and_name_alone() -> None:
    mine = places(LAYER, 100, seed=7)
    assert torch.equal(mine, places(LayerSpec("x.q_proj", 30, 40), 100, seed=7))
    assert not torch.equal(mine, places(LAYER, 100, seed=8))
    assert not torch.equal(mine, places(LayerSpec("x.v_proj", 40, 30), 100, seed=7))


def test_no_row_and_no_column_is_preferred() -> None:
    """400 of 1,200 weights: 10 of a row's 30 and 13.3 of a column's 40, five deviations at most."""
    for seed in range(20):
        mask = spread(torch.ones(400), places(LAYER, 400, seed=seed), LAYER)
        assert mask.sum() == 400
        assert (mask.sum(dim=1) - 10.0).abs().max() < 13.0
        assert (mask.sum(dim=0) - 400 / 30).abs().max() < 15.0


def test_values_lie_row_by_row() -> None:
    layer = LayerSpec("x", 2, 3)
    dense = spread(torch.tensor([1.0, 2.0]), torch.tensor([5, 1]), layer)
    assert dense.tolist() == [[0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]


def test_values_travel_alone_and_come_back_bit_for_bit() -> None:
    values = {"x": torch.randn(50), "y": torch.randn(7)}
    data = to_bytes(values_payload(values))
    assert len(data) < 4 * 57 + 300  # Nothing beside them but a header.
    found = payload_values(from_bytes(data), {"x": 50, "y": 7})
    assert all(torch.equal(found[name], values[name]) for name in values)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (Payload("factors", {"x": torch.ones(3)}), "is 'factors' version 1; expected 'sparse'"),
        (Payload("sparse", {"y": torch.ones(3)}), "differing: 'x'"),
        (Payload("sparse", {"x": torch.ones(4)}), "layer x has (4,) values of torch.float32"),
        (Payload("sparse", {"x": torch.ones(3).double()}), "torch.float64, expected (3,)"),
        (Payload("sparse", {"x": torch.full((3,), torch.nan)}), "layer x holds NaN or infinity"),
    ],
)
def test_what_is_not_such_values_is_refused(payload: Payload, message: str) -> None:
    with pytest.raises(AdapterError) as caught:
        payload_values(payload, {"x": 3})
    assert message in str(caught.value)
