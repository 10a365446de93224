"""Layers of one shape in one batch: what a GPU does, held here to one layer at a time."""

from __future__ import annotations

import pytest
import torch

from batched import batched, truncate_all
from flexlora.lowrank import LowRank, truncate
from matrices import skew, values_of, with_values
from reference import assert_close, dense, gaussian, generator, tail_norm

M, N, WIDTH, RANK = 560, 600, 800, 24


def layer(spectrum: str, seed: int) -> LowRank:
    """A wide factored matrix of this spectrum."""
    matrix = with_values(M, N, values_of(spectrum, M, RANK), seed=seed)[0]
    mix = gaussian(M, WIDTH, seed=seed) / WIDTH**0.5
    inverse = torch.linalg.pinv(mix.double())
    return LowRank(mix, (inverse @ matrix.double()).float())


LAYERS = [layer(spectrum, seed) for seed, spectrum in enumerate(("fast", "slow", "gap"))]


@pytest.mark.parametrize("warm", [False, True])
def test_a_batch_is_as_good_as_one_by_one(warm: bool) -> None:
    starts = [truncate(x, RANK, generator()).kept.vh if warm else None for x in LAYERS]
    found = batched(LAYERS, RANK, generator(), starts, 1e-5)
    assert found is not None
    for matrix, cut in zip(LAYERS, found, strict=True):
        optimum = tail_norm(dense(matrix), RANK)
        away = float((dense(matrix) - dense(cut.kept.low_rank())).norm())
        assert away <= (1.0 + 1e-5) * optimum + 1e-5 * cut.norm
        assert cut.certificate.kind == "exact-energy"
        assert cut.error == pytest.approx(away, rel=1e-4)
        assert skew(cut.kept) <= 1e-5


def test_starts_of_different_heights_are_left_out() -> None:
    starts = [gaussian(RANK + i, N, seed=i) for i in range(3)]
    found = batched(LAYERS, RANK, generator(), starts, 1e-5)
    without = batched(LAYERS, RANK, generator(), [None] * 3, 1e-5)
    assert found is not None
    assert without is not None
    for one, other in zip(found, without, strict=True):
        assert torch.equal(one.kept.s, other.kept.s)


def test_what_a_batch_leaves_to_one_by_one() -> None:
    small = [LowRank(gaussian(40, 9, seed=i), gaussian(9, 30, seed=i)) for i in range(2)]
    assert batched(small, 4, generator(), [None] * 2, 1e-5) is None  # exact, by shape
    nothing = [LAYERS[0], LAYERS[1] - LAYERS[1]]
    assert batched(nothing, RANK, generator(), [None] * 2, 1e-5) is None


def test_on_a_cpu_it_is_one_by_one() -> None:
    found = truncate_all(LAYERS[:2], RANK, generator(3))
    draw = generator(3)
    for matrix, cut in zip(LAYERS[:2], found, strict=True):
        wanted = truncate(matrix, RANK, draw)
        assert torch.equal(cut.kept.s, wanted.kept.s)
        assert_close(dense(cut.kept.low_rank()), dense(wanted.kept.low_rank()), 1e-12)
    assert truncate_all([], 3, generator()) == []


def test_one_shape_is_asked_for() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        truncate_all([LAYERS[0], LowRank.zero(3, 4)], 2, generator())
