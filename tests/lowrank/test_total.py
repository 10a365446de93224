"""A weighted sum read part by part: its form, its value, and what it holds meanwhile."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence

import pytest
import torch

from flexlora.lowrank import Dense, LowRank, Matrix, choose_path, total
from matrices import NOISE, exactly
from reference import assert_close, dense, gaussian, magnitude


def parts(shape: tuple[int, int], widths: Sequence[int]) -> list[tuple[float, LowRank]]:
    m, n = shape
    return [
        (
            (-0.5) ** i,
            LowRank(gaussian(m, width, seed=i), gaussian(width, n, seed=99 + i)),
        )
        for i, width in enumerate(widths)
    ]


def slow(items: Sequence[tuple[float, LowRank]]) -> torch.Tensor:
    return torch.stack([weight * dense(part) for weight, part in items]).sum(dim=0)


def summed(shape: tuple[int, int], widths: Sequence[int], rank: int | None = None) -> Matrix:
    return total(iter(parts(shape, widths)), shape, sum(widths), rank)


@pytest.mark.parametrize(
    ("shape", "widths", "form"),
    [
        ((30, 40), (3, 0, 5, 1), LowRank),
        ((30, 40), (17,), LowRank),
        ((30, 40), (10, 8), Dense),
        ((8, 9), (700, 700, 700, 1), Dense),
        ((8, 9), (3000, 5), Dense),
        ((1, 1), (1, 1, 1), Dense),
    ],
)
def test_it_is_the_float64_sum_in_the_smaller_form(
    shape: tuple[int, int], widths: Sequence[int], form: type[Matrix]
) -> None:
    items = parts(shape, widths)
    got = summed(shape, widths)
    assert isinstance(got, form)
    assert got.shape == shape
    whole = LowRank.weighted_sum([part for _, part in items], [weight for weight, _ in items])
    assert float((exactly(got) - slow(items)).norm()) <= NOISE * magnitude(whole)
    if isinstance(got, Dense):
        assert got.magnitude == pytest.approx(magnitude(whole), rel=1e-5)
    numbers = shape[0] * shape[1] if isinstance(got, Dense) else got.nbytes // 4
    assert numbers <= min(shape[0] * shape[1], sum(widths) * sum(shape))


@pytest.mark.parametrize("width", [100, 590, 610, 1500, 9000])
@pytest.mark.parametrize("rank", [1, 20, 150, 600])
def test_with_a_rank_it_has_the_form_that_truncation_wants(width: int, rank: int) -> None:
    """Never the factors of a path that would multiply them out, nor a product that they beat."""
    part = LowRank(torch.ones(600, width), torch.ones(width, 610))
    got = total([(1.0, part)], (600, 610), width, rank)
    factored = width < 600 or choose_path((600, 610), width, rank) == "implicit"
    assert isinstance(got, LowRank if factored else Dense)
    assert got.shape == (600, 610)


class Reader:
    """Parts that are made when they are asked for, and watched until they are let go of."""

    def __init__(self, shape: tuple[int, int], width: int, count: int) -> None:
        self._shape, self._width, self._count = shape, width, count
        self._alive: list[weakref.ref[torch.Tensor]] = []
        self.read, self.most = 0, 0

    def __iter__(self) -> Iterator[tuple[float, LowRank]]:
        m, n = self._shape
        for i in range(self._count):
            part = LowRank(gaussian(m, self._width, seed=i), gaussian(self._width, n, seed=i))
            self._alive += [weakref.ref(part.left), weakref.ref(part.right)]
            self.read += 1
            yield 1.0, part
            del part
            held = sum(tensor() is not None for tensor in self._alive)
            self.most = max(self.most, held)


@pytest.mark.parametrize(
    ("shape", "width", "count", "form"),
    [
        ((300, 400), 4, 40, LowRank),
        ((40, 50), 128, 60, Dense),
        ((40, 50), 2000, 5, Dense),
    ],
)
def test_parts_are_read_once_and_let_go_of(
    shape: tuple[int, int], width: int, count: int, form: type[Matrix]
) -> None:
    reader = Reader(shape, width, count)
    assert isinstance(total(reader, shape, width * count), form)
    assert reader.read == count
    assert reader.most == 2  # Both sides of the part that was just read.


def test_it_owns_what_it_gives_and_leaves_the_parts_alone() -> None:
    for shape, width in (((30, 40), 5), ((5, 6), 30)):
        part = LowRank(gaussian(shape[0], width, seed=1), gaussian(width, shape[1], seed=2))
        before = part.left.clone(), part.right.clone()
        got = total([(1.0, part)], shape, width)
        tensors = [got.matrix] if isinstance(got, Dense) else [got.left, got.right]
        for tensor in tensors:
            tensor.zero_()
        assert torch.equal(part.left, before[0])
        assert torch.equal(part.right, before[1])


@pytest.mark.parametrize("shape", [(90, 80), (5, 6)])
def test_duplicates_zeros_and_opposites_add_up(shape: tuple[int, int]) -> None:
    one = parts(shape, [7])[0][1]
    for weights, wanted in (((0.25, 0.75), 1.0), ((0.0, 0.0), 0.0), ((2.5, -2.5), 0.0)):
        got = total([(weight, one) for weight in weights], shape, 14)
        assert float((exactly(got) - wanted * dense(one)).norm()) <= NOISE * magnitude(one)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(90, 80), (5, 6)])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    items = [
        (weight, LowRank(part.left.to(dtype), part.right.to(dtype)))
        for weight, part in parts(shape, [9] * 4)
    ]
    got = total(items, shape, 36)
    held = got.matrix if isinstance(got, Dense) else got.left
    assert held.dtype == torch.float32
    assert_close(exactly(got), slow(items), 1e-6)


@pytest.mark.parametrize("first", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "width"), [((90, 80), 2), ((5, 6), 600)])
def test_the_first_part_gives_the_dtype(
    first: torch.dtype, shape: tuple[int, int], width: int
) -> None:
    """Also where later parts are of the other one, in the same product or a later one."""
    other = torch.float32 if first == torch.float64 else torch.float64
    dtypes = (first, other, other, other)
    items = [
        (weight, LowRank(part.left.to(dtype), part.right.to(dtype)))
        for (weight, part), dtype in zip(parts(shape, [width] * 4), dtypes, strict=True)
    ]
    got = total(items, shape, 4 * width)
    held = got.matrix if isinstance(got, Dense) else got.left
    assert held.dtype == first
    assert_close(exactly(got), slow(items), 1e-5)


def test_nothing_at_all() -> None:
    got = total([], (3, 4), 0)
    assert isinstance(got, LowRank)
    assert (got.shape, got.width) == ((3, 4), 0)
    got = total([(1.0, LowRank.zero(3, 4))], (3, 4), 0, rank=2)
    assert float(exactly(got).norm()) == 0.0


@pytest.mark.parametrize("shape", [(30, 40), (4, 5)])
def test_what_is_not_as_announced_is_refused(shape: tuple[int, int]) -> None:
    m, n = shape
    items = parts(shape, [6, 6])
    with pytest.raises(ValueError, match=r"width 12, expected 13"):
        total(items, shape, 13)
    with pytest.raises(ValueError, match=r"width 12, expected 11"):
        total(items, shape, 11)
    with pytest.raises(ValueError, match=r"of \(\d+, \d+\) got a part of shape \(\d+, \d+\)"):
        total([*items, (1.0, LowRank.zero(n, m))], shape, 12)
    with pytest.raises(ValueError, match="expected 6 in all"):
        total([], shape, 6)


def test_a_sum_that_is_too_wide_is_read_no_further() -> None:
    reader = Reader((30, 40), 3, 10)
    with pytest.raises(ValueError, match="expected 5"):
        total(reader, (30, 40), 5)
    assert reader.read == 2
