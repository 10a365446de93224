"""A cohort of any make-up equals its clients one by one, whatever kernel computes it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexlora.adapters import Adapter, Factors
from flexlora.models import AdaptedModel
from flexlora.training import Recipe, Trained, Visit, train, train_cohort
from models.oracle import apart, encoded, random_adapter, random_model
from training.clients import allowed


@dataclass(frozen=True)
class Client:
    """ranks: of each of the four layers."""

    ranks: tuple[int, int, int, int]
    examples: int
    longest: int
    batch_size: int
    max_steps: int
    sgd: bool


@dataclass(frozen=True)
class Cohort:
    clients: tuple[Client, ...]
    dtype: torch.dtype
    padded: bool
    stacked: bool
    origin: bool
    dropout: float


rank = st.integers(0, 4)
clients = st.builds(
    Client,
    ranks=st.tuples(rank, rank, rank, rank),
    examples=st.integers(1, 5),
    longest=st.sampled_from((2, 9, 40)),
    batch_size=st.integers(1, 4),
    max_steps=st.integers(1, 5),
    sgd=st.booleans(),
)
cohorts = st.builds(
    Cohort,
    clients=st.lists(clients, min_size=1, max_size=5).map(tuple),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    padded=st.booleans(),
    stacked=st.booleans(),
    origin=st.booleans(),
    dropout=st.sampled_from((0.0, 0.3)),
)


@cache
def model(dtype: torch.dtype, padded: bool) -> AdaptedModel:
    base = random_model("llama", dtype, attention="eager" if padded else None)
    return AdaptedModel(base, ("q_proj", "down_proj"))


def visits(ours: AdaptedModel, cohort: Cohort) -> list[Visit]:
    found = []
    for k, client in enumerate(cohort.clients):
        full = random_adapter(ours.layers, 4, seed=k, dtype=cohort.dtype)
        adapter = Adapter(
            {
                name: Factors(f.b[:, :rank], f.a[:rank], f.scale)
                for rank, (name, f) in zip(client.ranks, full.items(), strict=True)
            }
        )
        recipe = Recipe(
            "sgd" if client.sgd else "adamw",
            1e-2,
            client.batch_size,
            epochs=5,
            max_steps=client.max_steps,
            weight_decay=0.1,
            dropout=cohort.dropout,
        )
        data = encoded(client.examples, seed=k, longest=client.longest)
        found.append(Visit(adapter, data, recipe, torch.Generator().manual_seed(k)))
    return found


NOTHING = Client((0, 0, 0, 0), 1, 2, 1, 1, False)
LARGE = Client((4, 1, 0, 3), 5, 40, 4, 5, True)


@settings(max_examples=40)
@given(cohorts)
@example(Cohort((NOTHING, NOTHING), torch.float64, False, True, True, 0.3))
@example(Cohort((NOTHING, LARGE, NOTHING), torch.float64, True, True, True, 0.3))
@example(Cohort((NOTHING, LARGE, NOTHING), torch.float64, False, True, True, 0.3))
@example(Cohort((LARGE, NOTHING), torch.float32, True, False, False, 0.0))
def test_a_cohort_equals_its_clients_one_by_one(cohort: Cohort) -> None:
    ours = model(cohort.dtype, cohort.padded)
    alone = [train(ours, visit, origin=cohort.origin) for visit in visits(ours, cohort)]
    together = train_cohort(
        ours, visits(ours, cohort), origin=cohort.origin, stacked=cohort.stacked
    )
    limit = allowed(cohort.dtype, "eager" if cohort.padded else None)
    assert len(together) == len(alone)
    for one, other in zip(alone, together, strict=True):
        assert isinstance(other, Trained)
        assert apart(other.adapter, one.adapter) <= limit
        assert abs(other.loss - one.loss) <= limit
        numbers = (one.steps, one.tokens, one.examples)
        assert (other.steps, other.tokens, other.examples) == numbers
