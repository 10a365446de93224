"""A bfloat16 base with float32 adapters: cohorts train as one by one, near what float32 trains."""

from __future__ import annotations

import pytest
import torch

from flexlora.models import AdaptedModel
from flexlora.training import Trained, train, train_cohort
from models.layers import KERNELS
from models.oracle import FAMILIES, apart, random_model
from training.clients import visits


def rounded(family: str, dtype: torch.dtype, attention: str | None) -> AdaptedModel:
    """Weights that bfloat16 holds exactly, in either dtype."""
    base = random_model(family, attention=attention)
    base.model.to(torch.bfloat16).to(dtype)
    return AdaptedModel(base)


@KERNELS
@pytest.mark.parametrize("attention", [None, "eager"], ids=["packed", "padded"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bfloat16_base_trains_as_a_float32_one_but_for_rounding(
    family: str, dropout: float, attention: str | None, stacked: bool
) -> None:
    half = rounded(family, torch.bfloat16, attention)
    full = rounded(family, torch.float32, attention)
    given = visits(full, dropout=dropout)
    wanted = [train(full, visit) for visit in visits(full, dropout=dropout)]
    alone = [train(half, visit) for visit in visits(full, dropout=dropout)]
    together = train_cohort(half, visits(full, dropout=dropout), stacked=stacked)
    for visit, exact, one, other in zip(given, wanted, alone, together, strict=True):
        assert isinstance(other, Trained)
        assert all(f.a.dtype == torch.float32 for f in other.adapter.values())
        way = apart(exact.adapter, visit.adapter)
        assert apart(other.adapter, one.adapter) < 0.02
        assert apart(other.adapter, exact.adapter) < 0.2 * way
        assert other.loss == pytest.approx(exact.loss, abs=0.02)
