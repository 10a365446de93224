"""What hostile clients make of what they trained, by hand."""

from __future__ import annotations

import pytest
import torch

from flexlora.adapters import Adapter, Factors, Sides
from flexlora.federation.attacks import little_is_enough, shuffled, stepped
from reference import assert_close, gaussian, product


def adapter(rank: int, seed: int, *, start: Adapter | None = None, step: float = 1.0) -> Adapter:
    b, a = gaussian(7, rank, seed=seed), gaussian(rank, 5, seed=seed + 1)
    if start is not None:
        b, a = start["x"].b[:, :rank] + step * b, start["x"].a[:rank] + step * a
    return Adapter({"x": Factors(b, a, 0.5)})


SENT = adapter(4, 1)


@pytest.mark.parametrize(("attack", "factor"), [("scaled", 3.0), ("sign_flip", -3.0)])
@pytest.mark.parametrize("rank", [4, 2])
def test_a_step_is_scaled_or_turned_side_by_side(attack: str, factor: float, rank: int) -> None:
    """Also of a client that has pruned itself."""
    trained = adapter(rank, 5, start=SENT)
    found = stepped(attack, trained, SENT, 3.0, torch.Generator())["x"]
    for side, sent in (("b", SENT["x"].b[:, :rank]), ("a", SENT["x"].a[:rank])):
        step = getattr(trained["x"], side) - sent
        assert_close(getattr(found, side), sent + factor * step, 1e-6)
    assert found.scale == 0.5


def test_noise_is_as_long_as_the_step_and_drawn_from_the_stream() -> None:
    trained = adapter(4, 5, start=SENT)
    one, again, other = (
        stepped("random", trained, SENT, 2.0, torch.Generator().manual_seed(seed))["x"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(one.b, again.b)
    assert not torch.equal(one.b, other.b)
    length = float((trained["x"].b - SENT["x"].b).norm())
    assert float((one.b - SENT["x"].b).norm()) == pytest.approx(2.0 * length, rel=1e-5)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_side_that_did_not_travel_does_not_travel_now(side: Sides) -> None:
    trained = adapter(4, 5, start=SENT).only(side)
    draw = torch.Generator().manual_seed(0)
    for found in (
        stepped("sign_flip", trained, SENT, 1.0, draw),
        shuffled(trained, 1.0),
        *little_is_enough([trained, trained], 1.5),
    ):
        assert found["x"].sides == side


@pytest.mark.parametrize("rank", [1, 4])
def test_shuffled_factors_are_each_as_they_were_and_their_product_is_not(rank: int) -> None:
    trained = adapter(rank, 5)
    found = shuffled(trained, 1.0)["x"]
    assert_close(torch.linalg.svdvals(found.b), torch.linalg.svdvals(trained["x"].b), 1e-6)
    assert torch.equal(found.a, trained["x"].a)
    apart = product(found) - product(trained["x"])
    assert float(apart.norm()) > float(product(trained["x"]).norm())


def test_colluders_return_their_mean_less_their_deviation_of_each_component() -> None:
    """The third component, which one of them has, is its own."""
    ranks = {2: 5, 3: 9}
    two, three = (adapter(rank, seed, start=SENT, step=0.1) for rank, seed in ranks.items())
    low, high = (x["x"] for x in little_is_enough([two, three], 1.5))
    both = torch.stack([two["x"].a, three["x"].a[:2]])
    assert_close(low.a, both.mean(0) - 1.5 * both.std(0, correction=0), 1e-6)
    assert torch.equal(low.a, high.a[:2])
    assert torch.equal(high.a[2], three["x"].a[2])
    assert_close(low.b, high.b[:, :2], 1e-6)


def test_dtypes_stay() -> None:
    half = Adapter({"x": Factors(SENT["x"].b.bfloat16(), SENT["x"].a.bfloat16(), 0.5)})
    for found in (
        stepped("scaled", half, half, 2.0, torch.Generator()),
        shuffled(half, 1.0),
        *little_is_enough([half, half], 1.0),
    ):
        assert found["x"].b.dtype == found["x"].a.dtype == torch.bfloat16
