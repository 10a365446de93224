"""LAPACK gives up on some finite matrices; which ones differs from library to library."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from flexlora.lowrank import LowRank, svd
from flexlora.lowrank.lapack import GaveUp, lapack_svd

GivesUp = Callable[[int], list[torch.Size]]

SHAPES = [(7, 4), (4, 7), (5, 5)]


@pytest.fixture
def gives_up(monkeypatch: pytest.MonkeyPatch) -> GivesUp:
    """gives_up(n): the library's next n calls fail, as MKL's do; says how many were made."""
    real = torch.linalg.svd

    def arranged(times: int) -> list[torch.Size]:
        calls: list[torch.Size] = []

        def called(matrix: torch.Tensor, **options: Any) -> Any:
            calls.append(matrix.shape)
            if len(calls) <= times:
                raise GaveUp("failed to converge")
            return real(matrix, **options)

        monkeypatch.setattr(torch.linalg, "svd", called)
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
