"""LAPACK gives up on some finite matrices; which ones differs from library to library."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

import flexlora
from flexlora.lowrank import LowRank, svd, truncate
from flexlora.lowrank.lapack import GaveUp, lapack_eigh, lapack_eigvalsh, lapack_svd
from flexlora.lowrank.truncate import Path as PathOf

GivesUp = Callable[..., list[torch.Size]]

SHAPES = [(7, 4), (4, 7), (5, 5)]


@pytest.fixture
def gives_up(monkeypatch: pytest.MonkeyPatch) -> GivesUp:
    """gives_up(n, of): the library's next n calls fail, as MKL's do; says how many were made."""

    def arranged(times: int, of: str = "svd") -> list[torch.Size]:
        calls: list[torch.Size] = []
        real = getattr(torch.linalg, of)

        def called(matrix: torch.Tensor, **options: Any) -> Any:
            calls.append(matrix.shape)
            if len(calls) <= times:
                raise GaveUp("failed to converge")
            return real(matrix, **options)

        monkeypatch.setattr(torch.linalg, of, called)
        return calls

    return arranged


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_matrix_that_the_library_gives_up_on_is_decomposed_another_way(
    shape: tuple[int, int], times: int, gives_up: GivesUp
) -> None:
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.linalg.svdvals(matrix)
    calls = gives_up(times)
    u, s, vh = lapack_svd(matrix)
    assert len(calls) == times + 1
    torch.testing.assert_close(s, expected)
    torch.testing.assert_close((u * s) @ vh, matrix)
    one = torch.eye(min(shape), dtype=torch.float64)
    torch.testing.assert_close(u.T @ u, one)
    torch.testing.assert_close(vh @ vh.T, one)


def test_what_fails_every_way_is_told(gives_up: GivesUp) -> None:
    calls = gives_up(3)
    with pytest.raises(GaveUp):
        lapack_svd(torch.eye(3))
    assert len(calls) == 3


@pytest.mark.parametrize("shape", [(12, 9), (3, 3)])
def test_the_exact_routes_go_on(shape: tuple[int, int], gives_up: GivesUp) -> None:
    generator = torch.Generator().manual_seed(2)
    left = torch.randn(shape[0], 3, dtype=torch.float64, generator=generator)
    right = torch.randn(3, shape[1], dtype=torch.float64, generator=generator)
    calls = gives_up(1)
    spectrum = svd(LowRank(left, right))
    assert len(calls) == 2
    torch.testing.assert_close((spectrum.u * spectrum.s) @ spectrum.vh, left @ right)


def symmetric(n: int) -> torch.Tensor:
    tall = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return tall + tall.T


@pytest.mark.parametrize("times", [0, 1])
def test_a_symmetric_matrix_is_decomposed_from_its_other_end(times: int, gives_up: GivesUp) -> None:
    matrix = symmetric(6)
    expected = torch.linalg.eigvalsh(matrix)
    calls = gives_up(times, "eigh")
    values, vectors = lapack_eigh(matrix)
    assert len(calls) == times + 1
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(vectors * values @ vectors.T, matrix)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(6, dtype=torch.float64))


def test_eigenvalues_alone_come_with_vectors_where_they_do_not_come_alone(
    gives_up: GivesUp,
) -> None:
    expected = torch.linalg.eigvalsh(symmetric(6))
    calls = gives_up(1, "eigvalsh")
    torch.testing.assert_close(lapack_eigvalsh(symmetric(6)), expected)
    assert len(calls) == 1
    gives_up(2, "eigh")
    with pytest.raises(GaveUp):
        lapack_eigh(symmetric(6))


@pytest.mark.parametrize("path", get_args(PathOf))
def test_a_truncation_goes_on(path: PathOf, gives_up: GivesUp) -> None:
    draws = torch.Generator().manual_seed(4)
    left, right = torch.randn(300, 60, generator=draws), torch.randn(60, 200, generator=draws)
    falling = LowRank(left * torch.arange(60).mul(-0.2).exp(), right)

    def cut() -> torch.Tensor:
        return (
            truncate(falling, 8, torch.Generator().manual_seed(5), path=path)
            .kept.low_rank()
            .dense()
        )

    expected = cut()
    calls = gives_up(1, "eigh")
    torch.testing.assert_close(cut(), expected, rtol=1e-4, atol=1e-4)
    assert len(calls) > 1


def test_nobody_asks_the_library_past_the_second_way() -> None:
    source = Path(flexlora.__file__).parent
    asks = re.compile(r"torch\.linalg\.(svd|svdvals|eigh|eigvalsh|eig)\(")
    found = {x.name for x in source.rglob("*.py") if asks.search(x.read_text(encoding="utf-8"))}
    assert found == {"lapack.py"}
