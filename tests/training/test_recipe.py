"""Recipes refuse what cannot be trained with."""

from __future__ import annotations

from typing import Any

import pytest

from flexlora.errors import ConfigError
from flexlora.training import Recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": "adam"}, "optimiser is .adam.; did you mean 'adamw'"),
        ({"loss_on": "responses"}, "loss_on is .responses.; did you mean 'response'"),
        (
            {"learning_rate": 0.0},
            "learning_rate is 0.0, expected a number above 0 and at most",
        ),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1, expected a number of 0 or more"),
        ({"clip_norm": 0}, "clip_norm is 0, expected a number above 0"),
        ({"dropout": 1.0}, "dropout is 1.0, expected a number of 0 or more and below 1"),
        ({"batch_size": 0}, "batch_size is 0, expected a whole number of 1 or more"),
        ({"batch_size": 2.0}, "batch_size is 2.0, expected a whole number"),
        ({"epochs": True}, "epochs is true, expected a whole number"),
        ({"max_steps": 0}, "max_steps is 0"),
    ],
)
def test_values_out_of_range(changes: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"optimiser": "sgd", "learning_rate": 0.1, "batch_size": 2}
    Recipe(**values)
    with pytest.raises(ConfigError, match=message):
        Recipe(**(values | changes))
