"""How rates are chosen, and when the grid grows; nothing is trained here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from comparing.comparisons import comparison
from flexlora.comparing import plan
from flexlora.comparing.folder import begin
from flexlora.comparing.plan import Job
from flexlora.comparing.tuned import Grid, Tuned, best_rate, read_tuned
from flexlora.comparing.tuning import tune
from flexlora.errors import RunError

GRID = [1e-3, 3e-3, 1e-2]


def tuned(
    out: Path, value: Callable[[str, float], float | None], **settings: str
) -> tuple[Tuned, list[list[float]]]:
    """With runs that come to these values; and which rates were asked for, time after time."""
    asked: list[list[float]] = []

    def play(jobs: Sequence[Job]) -> None:
        asked.append(sorted({job.rate or 0.0 for job in jobs}))

    def score(job: Job) -> float | None:
        assert job.rate is not None
        return value(job.arm.name, job.rate)

    made = comparison(rates=GRID, tuning_seeds=[7, 8], **settings)
    begin(made, out)
    return tune(made, out, play, score, lambda _: None), asked


def near(best: float) -> Callable[[str, float], float]:
    return lambda _, rate: abs(math.log(rate / best))


def test_the_best_mean_is_chosen_and_all_that_was_seen_is_kept(tmp_path: Path) -> None:
    found, asked = tuned(tmp_path, near(2.5e-3))
    assert asked == [GRID]
    assert found.rates == {"flexlora": 3e-3, "fedit": 3e-3}
    assert len(found.seen["fedit"][1e-2]) == 2  # Of two seeds.
    assert read_tuned(tmp_path) == Tuned(
        "loss",
        Grid(tuple(GRID)),
        {n: {r: tuple(v) for r, v in by.items()} for n, by in found.seen.items()},
        found.rates,
    )


def test_an_optimum_of_one_arm_at_the_edge_extends_the_grid_for_all(tmp_path: Path) -> None:
    def value(arm: str, rate: float) -> float:
        return near(0.05 if arm == "fedit" else 3e-3)(arm, rate)

    found, asked = tuned(tmp_path, value)
    assert asked[-1] == [*GRID, 0.0333, 0.111]  # By the grid's own factor at that edge.
    assert (found.grid.below, found.grid.above) == (0, 2)
    assert found.rates == {"flexlora": 3e-3, "fedit": 0.0333}
    assert set(found.seen["flexlora"]) == set(asked[-1])


def test_the_grid_grows_three_times_each_way_at_most(tmp_path: Path) -> None:
    found, asked = tuned(tmp_path, lambda arm, rate: rate if arm == "fedit" else -rate)
    assert len(asked) == 4
    assert len(asked[-1]) == 3 + 3 + 3
    assert (found.grid.below, found.grid.above) == (3, 3)
    record = found.to_json()
    assert record["extended"] == {"below": 3, "above": 3}
    assert record["arms"]["fedit"]["at_edge"]


def test_a_metric_that_is_better_higher_is_maximised(tmp_path: Path) -> None:
    found, _ = tuned(tmp_path, lambda arm, rate: -near(3e-3)(arm, rate), metric="rouge_l")
    assert set(found.rates.values()) == {3e-3}


def test_rates_may_be_tuned_by_another_metric_than_is_compared(tmp_path: Path) -> None:
    by = {"metric": "rouge_l", "tuning_metric": "loss"}
    found, _ = tuned(tmp_path, near(3e-3), **by)
    assert set(found.rates.values()) == {3e-3}
    assert found.metric == "loss"
    made = comparison(rates=GRID, tuning_seeds=[7, 8], **by)
    tuning, *_ = plan.tuning(made, tmp_path, GRID)
    assert tuning.config.evaluation.metric == "loss"
    cell, *_ = plan.cells(made, tmp_path, found.rates)
    assert "rouge_l" in [cell.config.evaluation.metric, *cell.config.evaluation.metrics]


def test_a_rate_at_which_training_breaks_down_is_not_chosen(tmp_path: Path) -> None:
    def value(arm: str, rate: float) -> float | None:
        return None if rate > 5e-3 or arm == "fedit" else -rate

    found, asked = tuned(tmp_path, value)
    assert asked == [GRID]  # What lies beyond has broken down: the best is at no edge.
    assert found.rates == {"flexlora": 3e-3, "fedit": None}
    again = read_tuned(tmp_path)
    assert again is not None
    assert again.seen["flexlora"][1e-2] == (None, None)


def test_of_equal_rates_the_lower_is_chosen_and_one_seed_that_lacks_a_value_is_enough() -> None:
    by: dict[float, list[float | None]] = {1e-2: [1.0, 1.0], 1e-3: [1.0, 1.0], 1e-1: [0.0, None]}
    assert best_rate(by, higher_is_better=False) == 1e-3
    assert best_rate(by, higher_is_better=True) == 1e-3
    assert best_rate({1.0: [None]}, higher_is_better=True) is None


def test_damage_to_what_was_tuned_is_told(tmp_path: Path) -> None:
    (tmp_path / "tuned.json").write_text('{"metric": "loss"}')
    with pytest.raises(RunError, match=r"tuned\.json is missing or damaged"):
        read_tuned(tmp_path)
