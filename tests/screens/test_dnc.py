"""Who stands out along the principal directions is left out, colluders with a small lie too."""

from __future__ import annotations

import pytest
import torch

from flexlora.errors import RoundError
from flexlora.screens.dnc import DnC
from flexlora.screens.multi_krum import MultiKrum
from reference import as_in_production
from screens.rounds import crowd, round_at


def by_hand(points: torch.Tensor, hostile: int) -> set[str]:
    """By singular vectors of the centred points, one client at a time."""
    left = list(range(len(points)))
    gone = set()
    for _ in range(hostile):
        centred = points[left] - points[left].mean(dim=0)
        direction = torch.linalg.svd(centred).Vh[0]
        worst = int((centred @ direction).square().argmax())
        gone.add(f"{left.pop(worst):02}")
    return gone


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_shares_of_the_principal_directions_go_as_by_hand(seed: int) -> None:
    points = crowd(11, seed=seed)
    points[4] += 0.5
    found = DnC(hostile=0.3).verdicts(round_at(points))
    assert set(found) == by_hand(points, 3)
    assert all("of the variance along the principal direction" in v.reason for v in found.values())


def test_colluders_whose_lie_is_no_longer_than_honest_changes_are_found() -> None:
    """All send one point within the crowd's own spread: near each other, so Krum keeps some."""
    points = crowd(20, seed=3)
    points[:4] = points[4:].mean(dim=0) - 1.5 * points[4:].std(dim=0)
    liars = {"00", "01", "02", "03"}
    assert set(DnC().verdicts(round_at(points))) == liars
    assert not liars <= set(MultiKrum().verdicts(round_at(points)))


def test_nobody_goes_where_all_sent_the_same() -> None:
    assert DnC().verdicts(round_at(torch.ones(6, 3, dtype=torch.float64))) == {}


def test_too_few_is_an_error_with_the_cure() -> None:
    with as_in_production(), pytest.raises(RoundError, match=r"2 clients are left .* it needs 3"):
        DnC().verdicts(round_at(crowd(2, seed=0)))
