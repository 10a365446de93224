"""What training changed, against dense float64; and nothing at all where nothing was moved."""

from __future__ import annotations

import pytest
import torch

from flexlora.adapters import Adapter, Factors, Sides, change, reach, turned
from reference import assert_close, dense, gaussian, product


def factors(rank: int, seed: int, scale: float = 0.7) -> Factors:
    return Factors(gaussian(9, rank, seed=seed), gaussian(rank, 7, seed=seed + 1), scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_what_was_not_moved_has_no_change_at_all(dtype: torch.dtype, rank: int) -> None:
    """The difference of the two products has the norm of their rounding instead."""
    sent = Factors(1e3 * factors(rank, 1).b.to(dtype), factors(rank, 1).a.to(dtype), 16.0 / 30.0)
    back = Factors(sent.b.clone(), sent.a.clone(), sent.scale)
    assert not dense(change(back, sent)).any()
    assert change(back, sent).norm() == 0.0
    for side in ("b", "a"):
        assert change(back.only(side), sent).norm() == 0.0
        assert change(back.only(side), sent.only(side)).norm() == 0.0


@pytest.mark.parametrize(("new", "old"), [(3, 3), (2, 5), (5, 2), (1, 3)])
@pytest.mark.parametrize("scale", [0.7, 0.2])
def test_it_is_the_difference_of_the_products(new: int, old: int, scale: float) -> None:
    """Also of a client that pruned itself, of one that is wider, and of another scale."""
    trained, sent = factors(new, 1, scale), factors(old, 5)
    found = change(trained, sent)
    assert found.width == new + old
    assert_close(dense(found), product(trained) - product(sent), 1e-6)


def test_a_small_step_of_a_large_layer_is_not_lost_in_rounding() -> None:
    """The difference of the products would be off by a tenth of it."""
    sent = Factors(100.0 * factors(3, 1).b, factors(3, 1).a, 16.0 / 30.0)
    step = torch.zeros(9, 3)
    step[2, 1] = 2.0**-13
    moved = Factors(sent.b + step, sent.a, sent.scale)
    wanted = sent.scale * ((moved.b.double() - sent.b.double()) @ sent.a.double())
    assert_close(dense(change(moved, sent)), wanted, 1e-6)


@pytest.mark.parametrize("side", ["b", "a"])
def test_one_side_alone_is_compared_by_itself(side: Sides) -> None:
    trained, sent = factors(2, 1), factors(3, 5)
    wanted = trained.b - sent.b[:, :2] if side == "b" else trained.a - sent.a[:2]
    for known in (sent, sent.only(side)):
        assert change(trained.only(side), known).norm() == pytest.approx(float(wanted.norm()))


def test_a_side_that_was_not_sent_counts_as_zero() -> None:
    trained, sent = factors(3, 1), factors(3, 5)
    cases: list[tuple[Sides, Sides]] = [("b", "a"), ("a", "b")]
    for side, other in cases:
        assert_close(dense(change(trained, sent.only(side))), product(trained), 1e-6)
        found = change(trained.only(side), sent.only(other))
        assert found.norm() == pytest.approx(float(getattr(trained, side).norm()))


@pytest.mark.parametrize("long", [1e4, 1e8, 1e12, 1e20, 1e38])
def test_a_long_factor_hides_nothing(long: float) -> None:
    """What was learned is gone, or is another, behind an A (or a B) that rounds it away."""
    sent = factors(3, 5)
    gone = [
        Factors(torch.zeros_like(sent.b), torch.full_like(sent.a, long), sent.scale),
        Factors(torch.full_like(sent.b, long), torch.zeros_like(sent.a), sent.scale),
    ]
    for trained in gone:
        assert_close(dense(change(trained, sent)), -product(sent), 1e-6)
    other = factors(3, 9, sent.scale)
    for by in (long, 1 / long):
        trained = Factors(other.b * by, other.a / by, sent.scale)
        wanted = product(trained) - product(sent)
        assert_close(dense(change(trained, sent)), wanted, 1e-6)


@pytest.mark.parametrize(("new", "old"), [(3, 3), (2, 5), (5, 2)])
def test_factors_side_by_side_are_compared_row_by_row(new: int, old: int) -> None:
    trained, sent = factors(new, 1), factors(old, 5)
    wanted = torch.zeros(9 + 7, 6, dtype=torch.float64)
    wanted[:9, :new], wanted[9:, :new] = trained.b.double(), trained.a.T.double()
    wanted[:9, :old] -= sent.b.double()
    wanted[9:, :old] -= sent.a.T.double()
    assert_close(dense(turned(trained, sent, 6)), wanted, 1e-12)
    found = reach(Adapter({"x": trained, "y": sent}), Adapter({"x": sent, "y": sent}))
    assert found == pytest.approx(float(wanted.norm()))
    assert turned(trained.only("b"), sent, 6).norm() == 0.0
