"""Who is farthest from its neighbours is left out, and the promise needs so many clients."""

from __future__ import annotations

import pytest
import torch

from flexlora.errors import RoundError
from flexlora.screens.multi_krum import MultiKrum
from reference import as_in_production
from screens.rounds import crowd, round_at


def by_hand(points: torch.Tensor, hostile: int) -> set[str]:
    """Blanchard et al.'s scores, from the points themselves."""
    count = len(points)
    scores = []
    for k in range(count):
        others = [float((points[k] - points[j]).norm() ** 2) for j in range(count) if j != k]
        scores.append(sum(sorted(others)[: count - hostile - 2]))
    order = sorted(range(count), key=lambda k: -scores[k])
    return {f"{k:02}" for k in order[:hostile]}


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_scores_are_left_out_as_by_hand(seed: int) -> None:
    points = crowd(11, seed=seed)
    found = MultiKrum(hostile=0.3).verdicts(round_at(points))
    assert set(found) == by_hand(points, 3)
    assert all(v.weight == 0.0 and "8 changes nearest" not in v.reason for v in found.values())


def test_liars_far_from_all_go_and_the_reason_says_how_far() -> None:
    points = crowd(10, seed=1)
    points[3] *= -5.0
    points[7] += 9.0
    found = MultiKrum().verdicts(round_at(points))
    assert set(found) == {"03", "07"}
    assert found["03"].reason.startswith("its distance to the 6 changes nearest to it is among the")
    assert "times the median" in found["03"].reason


def test_too_few_for_its_promise_is_an_error_with_the_cure() -> None:
    with as_in_production(), pytest.raises(RoundError, match=r"4 clients are left .* it needs 5"):
        MultiKrum().verdicts(round_at(crowd(4, seed=0)))
    assert len(MultiKrum().verdicts(round_at(crowd(5, seed=0)))) == 1


def test_where_all_sent_the_same_somebody_goes_all_the_same() -> None:
    found = MultiKrum().verdicts(round_at(torch.ones(6, 3, dtype=torch.float64)))
    assert list(found) == ["00"]
