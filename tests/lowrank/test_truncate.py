"""The one entry to truncation, on every path, at sizes where Lanczos really runs."""

from __future__ import annotations

import math
from functools import cache
from typing import get_args

import pytest
import torch
from torch import Tensor

from flexlora.lowrank import TOLERANCE, Dense, LowRank, Matrix, Truncation, choose_path, truncate
from flexlora.lowrank.truncate import Path
from matrices import (
    EPS,
    SPECTRA,
    distance,
    exactly,
    in_factors,
    noise,
    skew,
    values_of,
    with_values,
)
from reference import descending, gaussian, generator

M, N, WIDTH, RANK = 400, 420, 1000, 20
PATHS: tuple[Path, ...] = get_args(Path)
every_path = pytest.mark.parametrize("path", PATHS)
iterated = pytest.mark.parametrize("path", ["formed", "implicit"])


@cache
def made(spectrum: str, dtype: torch.dtype = torch.float32) -> tuple[LowRank, Tensor, Tensor]:
    """The factors, the matrix in float64 as they are, and all its right singular vectors."""
    matrix, right = with_values(M, N, values_of(spectrum, M, RANK))
    factors = in_factors(matrix, WIDTH, dtype)
    return factors, exactly(factors), right


@cache
def true_values(spectrum: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.linalg.svdvals(made(spectrum, dtype)[1])


def check(got: Truncation, matrix: Matrix, wanted: Tensor, values: Tensor, rank: int) -> None:
    """All that a truncation promises, where the singular values of the matrix are `values`."""
    limit, optimum = noise(matrix), float(values[rank:].norm())
    away = distance(wanted, got)
    known = got.certificate
    assert got.kept.rank <= rank
    assert away <= (1.0 + TOLERANCE) * optimum + limit
    assert away >= optimum - limit
    assert descending(got.kept.s)
    assert bool((got.kept.s >= 0.0).all())
    assert skew(got.kept) <= 1e-5
    if known.kind == "probabilistic":
        # Ten probes: their mean square is this near to the true one but once in 3,000 times.
        assert 0.3 * away - limit <= known.error <= 1.8 * away + limit
        assert known.failure == 1e-3
        rest = wanted - (got.kept.u.double() * got.kept.s.double()) @ got.kept.vh.double()
        assert known.spectral >= float(torch.linalg.matrix_norm(rest, 2)) - limit
    else:
        assert abs(known.error - away) <= limit
        assert known.spectral <= known.error
        assert known.failure == 0.0


@pytest.mark.parametrize("spectrum", SPECTRA)
@iterated
def test_every_spectrum_is_cut_as_well_as_in_float64(spectrum: str, path: Path) -> None:
    matrix, wanted, _ = made(spectrum)
    got = truncate(matrix, RANK, generator(1), path=path)
    check(got, matrix, wanted, true_values(spectrum), RANK)


@pytest.mark.parametrize("spectrum", ["fast", "slow", "gap of ties", "tiny tail", "less", "zero"])
@iterated
def test_float64_stays_float64_at_its_own_precision(spectrum: str, path: Path) -> None:
    matrix, wanted, _ = made(spectrum, torch.float64)
    got = truncate(matrix, RANK, generator(1), path=path)
    assert got.kept.u.dtype == got.kept.s.dtype == got.kept.vh.dtype == torch.float64
    check(got, matrix, wanted, true_values(spectrum, torch.float64), RANK)
    optimum = float(true_values(spectrum, torch.float64)[RANK:].norm())
    limit = noise(matrix) / EPS * torch.finfo(torch.float64).eps
    assert distance(wanted, got) <= (1.0 + TOLERANCE) * optimum + limit


@pytest.mark.parametrize("rank", [0, 1, 199, M, M + 1, 10 * M])
@every_path
def test_any_rank(rank: int, path: Path) -> None:
    matrix, wanted, _ = made("slow")
    got = truncate(matrix, rank, generator(1), path=path)
    check(got, matrix, wanted, true_values("slow"), rank)
    assert got.kept.shape == (M, N)
    assert got.kept.rank == min(rank, M)


@every_path
def test_the_same_input_gives_the_same_bits_and_is_left_alone(path: Path) -> None:
    matrix, wanted, _ = made("slow")
    first, second = (truncate(matrix, RANK, generator(3), path=path) for _ in range(2))
    assert torch.equal(first.kept.u, second.kept.u)
    assert torch.equal(first.kept.s, second.kept.s)
    assert torch.equal(first.kept.vh, second.kept.vh)
    assert first.certificate == second.certificate
    assert torch.equal(exactly(matrix), wanted)


@pytest.mark.parametrize("scales", [(1e15, 1e15), (1e-15, 1e-15), (1e15, 1e-15), (1e-18, 1e18)])
@every_path
def test_factors_of_any_scale_with_products_that_float32_holds(
    scales: tuple[float, float], path: Path
) -> None:
    plain, _, _ = made("slow")
    matrix = LowRank(plain.left * scales[0], plain.right * scales[1])
    wanted = exactly(matrix)
    values = true_values("slow") * scales[0] * scales[1]
    check(truncate(matrix, RANK, generator(1), path=path), matrix, wanted, values, RANK)


@pytest.mark.parametrize("scale", [1e20, 1e21, 1e22, 1e-20, 1e-21, 1e-22])
@iterated
def test_factors_whose_squares_float32_does_not_hold(scale: float, path: Path) -> None:
    plain, _, _ = made("slow")
    matrix = LowRank(plain.left * scale, plain.right / scale)
    got = truncate(matrix, RANK, generator(1), path=path)
    check(got, matrix, exactly(matrix), true_values("slow"), RANK)


@iterated
def test_columns_of_scales_that_only_their_rows_undo(path: Path) -> None:
    plain, _, _ = made("slow")
    scale = torch.tensor([1e15, 1.0, 1e-15])[torch.arange(WIDTH) % 3]
    matrix = LowRank(plain.left * scale, plain.right / scale[:, None])
    got = truncate(matrix, RANK, generator(1), path=path)
    check(got, matrix, exactly(matrix), true_values("slow"), RANK)


@every_path
def test_what_cancels_leaves_nothing(path: Path) -> None:
    matrix, _, _ = made("slow")
    got = truncate(matrix - matrix, RANK, generator(1), path=path)
    assert got.kept.rank == 0
    assert got.kept.shape == (M, N)
    assert got.error <= noise(matrix - matrix)


@every_path
def test_what_is_left_of_large_parts_is_kept(path: Path) -> None:
    matrix, wanted, _ = made("slow")
    large = LowRank(100.0 * gaussian(M, 8, seed=1), gaussian(8, N, seed=2) / M**0.5 / N**0.5)
    total = LowRank.weighted_sum([large, matrix, large], [1.0, 1.0, -1.0])
    check(truncate(total, RANK, generator(1), path=path), total, wanted, true_values("slow"), RANK)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_path
def test_half_precision_is_taken_as_float32(dtype: torch.dtype, path: Path) -> None:
    plain, _, _ = made("fast")
    matrix = LowRank(plain.left.to(dtype), plain.right.to(dtype))
    wanted = exactly(matrix)
    got = truncate(matrix, RANK, generator(1), path=path)
    assert got.kept.u.dtype == torch.float32
    check(got, matrix, wanted, torch.linalg.svdvals(wanted), RANK)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("width", [9, 200])
@every_path
def test_what_is_not_finite_is_refused_even_behind_a_zero(
    bad: float, width: int, path: Path
) -> None:
    left, right = gaussian(110, width, seed=1), gaussian(width, 120, seed=2)
    left[7, 3], right[3] = bad, 0.0
    matrices: list[Matrix] = [
        LowRank(left, right),
        LowRank(right.T, left.T),
        LowRank(left, right + 1.0),
        Dense(left),
    ]
    for matrix in matrices:
        for rank in (0, 3, 200):
            with pytest.raises(ValueError, match="NaN or infinity"):
                truncate(matrix, rank, generator(1), path=path)


def test_certificates_say_what_they_are() -> None:
    matrix, wanted, _ = made("slow")
    product = Dense(matrix.dense(), matrix.magnitude())

    def kind(of: Matrix, path: Path) -> str:
        got = truncate(of, RANK, generator(1), path=path)
        check(got, of, wanted, true_values("slow"), RANK)
        return got.certificate.kind

    assert kind(matrix, "exact") == "exact"
    assert kind(matrix, "implicit") == "probabilistic"
    assert kind(matrix, "formed") == kind(product, "formed") == "exact-energy"
    # Where Lanczos did not settle, the exact path took over.
    assert truncate(matrix, 150, generator(1), path="implicit").certificate.kind == "exact"


def test_a_looser_tolerance_is_kept_and_zero_is_exact() -> None:
    matrix, wanted, _ = made("slow")
    optimum = float(true_values("slow")[RANK:].norm())
    for tolerance in (1e-2, 1e-3, 1e-7):
        got = truncate(matrix, RANK, generator(1), tolerance=tolerance, path="implicit")
        assert distance(wanted, got) <= (1.0 + tolerance) * optimum + noise(matrix)
    assert truncate(matrix, RANK, generator(1), tolerance=0.0).certificate.kind == "exact"


def test_a_negative_rank_is_refused() -> None:
    for path in (None, *PATHS):
        with pytest.raises(ValueError, match="rank is -1"):
            truncate(LowRank.zero(3, 4), -1, generator(), path=path)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (0, 5), (5, 0)])
@every_path
def test_shapes_without_room(shape: tuple[int, int], path: Path) -> None:
    for width in (0, 1, 30):
        matrix = LowRank(gaussian(shape[0], width, seed=1), gaussian(width, shape[1], seed=2))
        got = truncate(matrix, 2, generator(1), path=path)
        check(got, matrix, exactly(matrix), torch.linalg.svdvals(exactly(matrix)), 2)


@pytest.mark.parametrize(
    ("shape", "width", "rank", "path"),
    [
        ((300, 9000), 5000, 8, "exact"),
        ((9000, 300), 5000, 8, "exact"),
        ((4096, 4096), 300, 64, "exact"),
        ((4096, 4096), 900, 200, "exact"),
        ((4096, 4096), 722, 64, "implicit"),
        ((2048, 2048), 5400, 16, "implicit"),
        ((2048, 2048), 100_000, 200, "formed"),
        ((4096, 4096), None, 64, "formed"),
        ((300, 4096), None, 64, "exact"),
        ((4096, 4096), None, 4096, "exact"),
        ((4096, 4096), 5000, 0, "implicit"),
        ((0, 4096), 5000, 4, "exact"),
        ((1024, 2816), 3102, 200, "exact"),  # Half of 1,024 columns leave no room to settle.
        ((1200, 2816), 3300, 200, "formed"),
    ],
)
def test_the_path_follows_from_shapes(
    shape: tuple[int, int], width: int | None, rank: int, path: Path
) -> None:
    assert choose_path(shape, width, rank) == path
    assert choose_path((shape[1], shape[0]), width, rank) == path
    assert choose_path(shape, width, rank, 0.0) == "exact"


@pytest.mark.parametrize("shape", [(600, 600), (2048, 2048), (5504, 2048), (11008, 4096)])
def test_the_path_changes_once_and_in_one_direction(shape: tuple[int, int]) -> None:
    order = {"implicit": 0, "formed": 1, "exact": 2}
    for width in (None, 600, 2000, 5400, 10**5):
        by_rank = [order[choose_path(shape, width, rank)] for rank in range(0, 3000, 7)]
        assert by_rank == sorted(by_rank)
    for rank in (1, 16, 64, 200, 400):
        by_width = [choose_path(shape, width, rank) for width in range(0, 50_000, 97)]
        wide = [path for path in by_width if path != "exact"]
        assert by_width == ["exact"] * (len(by_width) - len(wide)) + wide
        assert [order[path] for path in wide] == sorted(order[path] for path in wide)


@pytest.mark.parametrize(("width", "path"), [(40, "exact"), (1500, "implicit")])
def test_without_a_path_the_shapes_choose_it(width: int, path: Path) -> None:
    matrix = LowRank(gaussian(600, width, seed=1), gaussian(width, 620, seed=2))
    assert choose_path(matrix.shape, width, RANK) == path
    free = truncate(matrix, RANK, generator(1))
    told = truncate(matrix, RANK, generator(1), path=path)
    assert torch.equal(free.kept.u, told.kept.u)
    assert free.certificate == told.certificate
