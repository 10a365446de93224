"""What befalls one client of a cohort, or all of it, and what it leaves behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from flexlora.adapters import Adapter
from flexlora.errors import AdapterError, DataError, TrainingError
from flexlora.models import packing
from flexlora.models.trainable import Trainable
from flexlora.training import Trained, train, train_cohort
from models.layers import KERNELS, STACKED
from models.oracle import apart, encoded
from pairs import pairs
from training.clients import model, visits


@pairs(
    rows={
        "packed": (None, "_one_by_one"),
        "side by side": (None, "_side_by_side"),
        "padded": ("eager", "_one_by_one"),
    },
    first=[True, False],
    stacked=STACKED,
)
def test_a_client_that_diverges_takes_no_other_with_it(
    monkeypatch: pytest.MonkeyPatch, rows: tuple[str | None, str], first: bool, stacked: bool
) -> None:
    attention, call = rows
    monkeypatch.setattr(packing, "_one_by_one", getattr(packing, call))
    ours = model(dtype=torch.float32, attention=attention)
    wild = visits(ours, 1, optimiser="sgd", learning_rate=1e38, clip_norm=None)[0]
    place = 0 if first else 2
    others = train_cohort(ours, visits(ours, 3), stacked=stacked)
    given = visits(ours, 3)
    given.insert(place, wild)
    found = train_cohort(ours, given, stacked=stacked)
    error = found.pop(place)
    assert isinstance(error, TrainingError)
    assert "with learning_rate 1e+38; lower learning_rate" in str(error)
    for one, other in zip(others, found, strict=True):
        assert isinstance(one, Trained)
        assert isinstance(other, Trained)
        assert apart(other.adapter, one.adapter) < 1e-3
        assert other.loss == pytest.approx(one.loss, abs=1e-4)
    assert ours(input_ids=torch.tensor([[3, 4]])).logits.isfinite().all()


@KERNELS
def test_bad_data_and_foreign_adapters_are_their_clients_own(stacked: bool) -> None:
    ours = model()
    given = visits(ours, 5)
    given[0] = replace(given[0], data=[])
    given[2] = replace(given[2], data=encoded(2, longest=200))
    foreign = dict(given[3].adapter)
    lost = next(iter(foreign))
    del foreign[lost]
    given[3] = replace(given[3], adapter=Adapter(foreign))
    found = train_cohort(ours, given, stacked=stacked)
    assert isinstance(found[0], DataError)
    assert isinstance(found[2], DataError)
    assert isinstance(found[3], AdapterError)
    assert lost in str(found[3])
    whole = visits(ours, 5)
    for k in (1, 4):
        trained = found[k]
        assert isinstance(trained, Trained)
        assert apart(trained.adapter, train(ours, whole[k]).adapter) < 1e-6
    assert [type(x) for x in train_cohort(ours, [given[0], given[2]])] == [DataError] * 2
    assert train_cohort(ours, []) == []


@pytest.mark.parametrize("change", [{"dropout": 0.2}, {"loss_on": "all"}])
def test_visits_that_cannot_share_a_pass_are_refused(change: dict[str, Any]) -> None:
    ours = model()
    given = visits(ours, 2)
    given[1] = replace(given[1], recipe=replace(given[1].recipe, **change))
    with pytest.raises(ValueError, match="one dropout and one loss_on"):
        train_cohort(ours, given)


@pytest.mark.parametrize("place", [1, 3])
def test_a_start_that_fails_leaves_the_model_whole(
    monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    ours = model()
    ids = torch.tensor([[3, 4]])
    before = ours(input_ids=ids).logits
    made: list[Trainable] = []

    class Exhausted(Trainable):
        def __init__(self, *args: Any, **options: Any) -> None:
            made.append(self)
            if len(made) == place:
                raise torch.OutOfMemoryError("tried to allocate 3 GiB")
            super().__init__(*args, **options)

    monkeypatch.setattr("flexlora.models.adapted.Trainable", Exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        train_cohort(ours, visits(ours, 3))
    assert torch.equal(ours(input_ids=ids).logits, before)


def test_a_step_that_fails_leaves_the_model_whole() -> None:
    ours = model()
    ids = torch.tensor([[3, 4]])
    before = ours(input_ids=ids).logits

    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 3 GiB")

    with pytest.raises(torch.OutOfMemoryError):
        train_cohort(ours, visits(ours, 3), penalty=exhausted)
    assert torch.equal(ours(input_ids=ids).logits, before)
    inner: Any = ours.model
    assert inner.config._attn_implementation == "sdpa"
    assert not inner.get_output_embeddings()._forward_pre_hooks
