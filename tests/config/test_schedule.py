"""The learning rate decays, validation has its rounds, and the best round is remembered."""

import json
import math
from typing import Any

import pytest

from flexlora.config.schedule import Schedule
from flexlora.runs.progress import Progress
from flexlora.training import Recipe


def schedule(**changes: Any) -> Schedule:
    return Schedule(rounds=10, clients=2, recipe=Recipe("adamw", 0.8, 4), **changes)


def test_the_rate_decays_from_each_decay_round_on() -> None:
    made = schedule(decay_factor=0.5, decay_rounds=(3, 6))
    rates = [made.recipe_for(round).learning_rate for round in range(1, 8)]
    assert rates == [0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2]
    assert made.recipe_for(9).batch_size == 4


def test_without_decay_rounds_the_rate_stays() -> None:
    assert schedule().recipe_for(10).learning_rate == 0.8


@pytest.mark.parametrize(
    ("every", "rounds"), [(0, []), (1, list(range(1, 11))), (4, [4, 8, 10]), (20, [10])]
)
def test_rounds_that_validate(every: int, rounds: list[int]) -> None:
    made = schedule(evaluate_every=every)
    assert [round for round in range(1, 11) if made.validates(round)] == rounds


def test_the_best_round_and_what_came_without_gain() -> None:
    progress = Progress()
    seen = []
    for round, value in enumerate((3.0, 2.0, 2.0, 2.5, math.nan, 1.0, math.inf), 1):
        progress = progress.after(round, value)
        seen.append((progress.best, progress.best_round, progress.stale))
    assert seen == [
        (3.0, 1, 0),
        (2.0, 2, 0),
        (2.0, 2, 1),
        (2.0, 2, 2),
        (2.0, 2, 3),
        (1.0, 6, 0),
        (1.0, 6, 1),
    ]


@pytest.mark.parametrize(
    "progress", [Progress(), Progress(0.1 + 0.2, 3, 2), Progress(-40.0, 1, 0, {"a": 0.1 + 0.2})]
)
def test_progress_survives_json(progress: Progress) -> None:
    text = json.dumps(progress.to_json(), allow_nan=False)
    assert Progress.from_json(json.loads(text)) == progress
