"""A bfloat16 base with float32 adapters: cohorts train as one by one, near what float32 trains.

Where products are added up in another order, a number that lies near the middle of two bfloat16
numbers is rounded the other way, and every rounding after it is drawn anew. Two runs are then as
far apart as two trainings with roundings of their own, whatever kernels made them; docs/log.md
has the experiment. So the bounds here are those of independent roundings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from flexlora.adapters import Adapter
from flexlora.models import AdaptedModel
from flexlora.training import Trained, Visit, train, train_cohort
from models.layers import STACKED
from models.oracle import FAMILIES, random_model
from pairs import pairs
from training.clients import ATTENTION, visits

# A rounding to bfloat16 is off by 2⁻⁹ of the number at most, and about a hundred of them, each by
# itself, lie between a gradient of two layers and what it is made from.
GRADIENT = 2.0**-9 * math.sqrt(100)
CHANGES: dict[str, dict[str, Any]] = {
    "sgd": {"optimiser": "sgd", "learning_rate": 0.05, "clip_norm": 1.0},
    "adamw": {"optimiser": "adamw", "learning_rate": 1e-2},
}
# What a relative error of the gradients makes of a step, and of the way that steps went. SGD hands
# it on. AdamW's first step is the gradient's sign: of normal numbers the share error / π has the
# other one, and each of these moves by twice its step.
STEP: dict[str, Callable[[float], float]] = {
    "sgd": lambda error: error,
    "adamw": lambda error: 2.0 * math.sqrt(error / math.pi),
}


def rounded(family: str, dtype: torch.dtype, attention: str | None) -> AdaptedModel:
    """Weights that bfloat16 holds exactly, in either dtype."""
    base = random_model(family, attention=attention)
    base.model.to(torch.bfloat16).to(dtype)
    return AdaptedModel(base)


def between(one: Adapter, two: Adapter) -> float:
    """The distance of all layers' products. Of one layer's few numbers, signs would be luck."""

    def off(name: str) -> Tensor:
        return one[name].product().dense().double() - two[name].product().dense().double()

    return math.sqrt(sum(float(off(name).square().sum()) for name in two))


@cache
def alone(
    family: str, optimiser: str, dropout: float, attention: str | None
) -> tuple[Callable[[], Sequence[Visit]], AdaptedModel, list[Trained], list[Trained]]:
    """The visits, a bfloat16 base, and what float32 and bfloat16 train one by one."""
    half = rounded(family, torch.bfloat16, attention)
    full = rounded(family, torch.float32, attention)

    def given() -> Sequence[Visit]:
        return visits(full, dropout=dropout, **CHANGES[optimiser])

    wanted = [train(full, visit) for visit in given()]
    return given, half, wanted, [train(half, visit) for visit in given()]


@pairs(family=FAMILIES, optimiser=[*STEP], dropout=[0.0, 0.3], attention=ATTENTION, stacked=STACKED)
def test_a_bfloat16_base_trains_as_a_float32_one_but_for_rounding(
    family: str, optimiser: str, dropout: float, attention: str | None, stacked: bool
) -> None:
    given, half, wanted, one_by_one = alone(family, optimiser, dropout, attention)
    together = train_cohort(half, given(), stacked=stacked)
    step = STEP[optimiser]
    for visit, exact, one, other in zip(given(), wanted, one_by_one, together, strict=True):
        assert isinstance(other, Trained)
        assert all(f.a.dtype == torch.float32 for f in other.adapter.values())
        way = between(exact.adapter, visit.adapter)
        assert between(one.adapter, exact.adapter) <= step(GRADIENT) * way
        assert between(other.adapter, exact.adapter) <= step(GRADIENT) * way
        assert between(other.adapter, one.adapter) <= step(math.sqrt(2.0) * GRADIENT) * way
        # Logits of size one, as near as the gradients are.
        assert other.loss == pytest.approx(exact.loss, abs=GRADIENT)
