"""What dropout keeps: as often as asked, of one's own seed, whatever is drawn with it."""

from __future__ import annotations

import pytest
import torch

from flexlora.models.dropping import kept


@pytest.mark.parametrize("drop", [0.001, 0.05, 0.1, 0.5, 0.9])
def test_so_many_are_dropped_each_by_itself(drop: float) -> None:
    """All counts within five standard deviations: of numbers, rows, columns and neighbours."""
    rows, columns = 600, 500
    mask = (~kept((rows, columns), drop, 3)).double()
    spread = (drop * (1 - drop)) ** 0.5

    def near(found: torch.Tensor, chance: float, count: int, wide: float) -> bool:
        return bool(((found - chance).abs() < 5 * wide / count**0.5).all())

    assert near(mask.mean(), drop, rows * columns, spread)
    assert near(mask.mean(0), drop, rows, spread)
    assert near(mask.mean(1), drop, columns, spread)
    pair = (drop**2 * (1 - drop**2)) ** 0.5
    for lag in (1, 2, 3, 4):
        both = mask[:, lag:] * mask[:, :-lag]
        assert near(both.mean(), drop**2, both.numel(), 2 * pair)


def test_the_first_are_the_same_whatever_comes_after() -> None:
    long = kept((9, 3, 5), 0.3, 7)
    for count in range(10):
        assert torch.equal(kept((count, 3, 5), 0.3, 7), long[:count])


def test_seeds_differ_and_repeat() -> None:
    one, other = kept((50, 40), 0.5, 1), kept((50, 40), 0.5, 2)
    assert torch.equal(one, kept((50, 40), 0.5, 1))
    assert 0.4 < (one == other).double().mean() < 0.6
    assert kept((5,), 0.5, 2**63 + 4).shape == (5,)


def test_none_and_nearly_all() -> None:
    assert kept((1000,), 0.0, 0).all()
    assert kept((100_000,), 1.0 - 1e-9, 0).double().mean() < 1e-3
