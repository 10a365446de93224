"""Many clients at once equal each one alone: the same batches, products and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

from flexlora.models import AdaptedModel, packing
from flexlora.models.trainable import Live
from flexlora.training import Trained, Visit, train, train_cohort
from models.layers import KERNELS, STACKED
from models.oracle import FAMILIES, apart, encoded, random_adapter
from pairs import pairs
from training.clients import ADAMW, ATTENTION, allowed, mixed, model, visits

DTYPES = [torch.float32, torch.float64]


@cache
def alone(ours: AdaptedModel, clients: int, changes: frozenset[tuple[str, Any]]) -> list[Trained]:
    """Once for both kernels."""
    return [train(ours, visit) for visit in visits(ours, clients, **dict(changes))]


def check(
    ours: AdaptedModel,
    clients: int = 5,
    *,
    stacked: bool,
    limit: float = 1e-6,
    changes: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> list[Trained]:
    """Train alone and at once; all that is reported is the same, the products within `limit`."""
    if options:
        wanted = [train(ours, visit, **options) for visit in visits(ours, clients, **changes)]
    else:
        wanted = alone(ours, clients, frozenset(changes.items()))
    state = torch.get_rng_state()
    given = visits(ours, clients, **changes)
    together = train_cohort(ours, given, stacked=stacked, **options)
    assert torch.equal(torch.get_rng_state(), state)
    found: list[Trained] = []
    for visit, one, other in zip(given, wanted, together, strict=True):
        assert isinstance(other, Trained)
        found.append(other)
        assert apart(other.adapter, one.adapter) < limit
        assert apart(other.adapter, visit.adapter) > 1e-3
        numbers = (one.steps, one.tokens, one.examples)
        assert (other.steps, other.tokens, other.examples) == numbers
        for name in ("loss", "first_loss", "last_loss"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), abs=limit)
    assert [x.steps for x in wanted] == [20, 4, 20, 7, 6][:clients]
    return found


@pairs(family=FAMILIES, dtype=DTYPES, attention=ATTENTION, stacked=STACKED)
def test_at_once_equals_one_by_one(
    family: str, dtype: torch.dtype, attention: str | None, stacked: bool
) -> None:
    """Mixed ranks, by layer too; unequal data; their own optimisers, rates, clipping and steps."""
    limit = allowed(dtype, attention)
    check(model(family, dtype, attention), stacked=stacked, limit=limit)


@pairs(dropout=[0.3, 0.0], attention=ATTENTION, stacked=STACKED)
def test_so_it_does_with_dropout_origin_delta_and_penalty(
    dropout: float, attention: str | None, stacked: bool
) -> None:
    ours = model(attention=attention)
    delta = random_adapter(ours.layers, 2, seed=77, scale=0.5)

    def proximal(live: Live, sent: Live) -> Tensor:
        parts = (((b - sent[name][0]) ** 2).sum() + (a**2).sum() for name, (b, a) in live.items())
        return 0.1 * sum(parts, torch.zeros(()))

    options: dict[str, Any] = {"origin": True, "penalty": proximal, "changes": {"dropout": dropout}}
    ours.set_delta({name: factors.product() for name, factors in delta.items()})
    try:
        check(ours, stacked=stacked, limit=allowed(torch.float64, attention), **options)
    finally:
        ours.set_delta({})


@pairs(attention=ATTENTION, stacked=STACKED)
def test_so_it_does_with_dropout_alone(attention: str | None, stacked: bool) -> None:
    ours = model(attention=attention)
    changes = {"dropout": 0.3, "loss_on": "all"}
    check(ours, stacked=stacked, limit=allowed(torch.float64, attention), changes=changes)


@pairs(dtype=DTYPES, stacked=STACKED)
def test_so_it_does_in_the_accelerators_attention(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, stacked: bool
) -> None:
    monkeypatch.setattr(packing, "_one_by_one", packing._side_by_side)
    check(model(dtype=dtype), stacked=stacked, limit=allowed(dtype, None))


@KERNELS
def test_batches_of_very_unlike_sizes(stacked: bool) -> None:
    """Nine examples beside one: what evens them out fits into a context of 64 learnt positions."""
    ours = model("gpt2")

    def given() -> list[Visit]:
        sizes = ((9, 9), (1, 1))
        return [
            Visit(
                mixed(ours, 2, seed=k),
                encoded(count, seed=k),
                replace(ADAMW, batch_size=size, max_steps=3),
                torch.Generator().manual_seed(k),
            )
            for k, (count, size) in enumerate(sizes)
        ]

    wanted = [train(ours, visit) for visit in given()]
    assert wanted[0].tokens > 64 * wanted[0].steps
    for one, other in zip(wanted, train_cohort(ours, given(), stacked=stacked), strict=True):
        assert isinstance(other, Trained)
        assert apart(other.adapter, one.adapter) < 1e-6


@pairs(attention=ATTENTION, stacked=STACKED)
def test_a_cohort_of_one_is_the_client_alone_bit_for_bit(
    attention: str | None, stacked: bool
) -> None:
    ours = model("gpt2", torch.float32, attention)
    # Batched and in a loop the branch adds up in other orders; the bits are those of either twice.
    (one,) = check(ours, 1, stacked=stacked, limit=allowed(torch.float32, attention))
    (other,) = train_cohort(ours, visits(ours, 1), stacked=stacked)
    assert isinstance(other, Trained)
    assert one.loss == other.loss
    assert all(torch.equal(one.adapter[x].b, other.adapter[x].b) for x in one.adapter)
