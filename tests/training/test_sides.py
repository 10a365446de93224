"""One side is trained: the other has no gradient, no step, no decay and no part in a norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flexlora.adapters import Sides
from flexlora.models.trainable import Live
from flexlora.training import Trained, train, train_cohort
from models.layers import KERNELS, STACKED
from models.oracle import apart, random_adapter
from pairs import pairs
from reference import there
from training.clients import model, visits

SIDES: tuple[Sides, ...] = ("a", "b")
LIMITS = {torch.float32: 1e-3, torch.float64: 1e-6}


@pairs(
    sides=SIDES,
    dtype=[torch.float32, torch.float64],
    options={"plain": {}, "origin": {"origin": True}, "dropout": {"dropout": 0.4}},
    stacked=STACKED,
)
def test_a_cohort_trains_one_side_as_each_trains_it_alone(
    sides: Sides, dtype: torch.dtype, options: dict[str, Any], stacked: bool
) -> None:
    """Ranks and numbers of steps differ; weight decay is on."""
    ours = model(dtype=dtype)
    origin = options.get("origin", False)
    given = {k: v for k, v in options.items() if k != "origin"} | {"weight_decay": 0.1}
    clients = visits(ours, 3, **given)
    alone = [train(ours, x, origin=origin, sides=sides) for x in visits(ours, 3, **given)]
    together = train_cohort(ours, clients, origin=origin, sides=sides, stacked=stacked)
    for visit, one, other in zip(clients, alone, together, strict=True):
        assert isinstance(other, Trained)
        assert apart(one.adapter, other.adapter) < LIMITS[dtype]
        assert other.loss == pytest.approx(one.loss, rel=LIMITS[dtype])
        for name, f in other.adapter.items():
            start = visit.adapter[name]
            moved, rest = (f.a, f.b) if sides == "a" else (f.b, f.a)
            was, kept = (start.a, start.b) if sides == "a" else (start.b, start.a)
            assert torch.equal(rest, kept)
            assert moved.shape == was.shape
            assert f.rank == 0 or not torch.equal(moved, was)


@pytest.mark.parametrize("sides", SIDES)
@KERNELS
def test_its_gradient_is_that_of_training_both(sides: Sides, stacked: bool) -> None:
    ours = model()
    adapters = [random_adapter(ours.layers, rank, seed=rank) for rank in (1, 3)]
    ids = torch.arange(3, 15).view(2, 6)

    def gradients(asked: Sides) -> list[dict[str, Tensor | None]]:
        carried = ours.start(adapters, sides=asked, stacked=stacked)
        ours(input_ids=ids).logits.square().mean().backward()
        found = []
        for trainable in carried.trainables:
            pairs = trainable.pairs.items()
            of_a = {f"{n}.a": p.grad_a for n, p in pairs}
            found.append(of_a | {f"{n}.b": p.grad_bt for n, p in pairs})
            numbers = sum(x.numel() for x in found[-1].values() if x is not None)
            assert trainable.vector.numel() == trainable.gradient.numel() == numbers
        ours.stop()
        return found

    for one, both in zip(gradients(sides), gradients("both"), strict=True):
        for key, gradient in one.items():
            if key.endswith(f".{sides}"):
                assert torch.equal(there(gradient), there(both[key]))
            else:
                assert gradient is None


@pytest.mark.parametrize("sides", SIDES)
def test_the_norm_that_is_clipped_is_that_of_the_trained_side(sides: Sides) -> None:
    """A step of SGD by hand, with a limit below both norms."""
    ours = model(dtype=torch.float64)
    (visit,) = visits(
        ours, 1, optimiser="sgd", max_steps=1, clip_norm=1e-3, learning_rate=1.0, weight_decay=0.0
    )
    trained = train(ours, visit, sides=sides)
    steps = [
        getattr(trained.adapter[name], sides) - getattr(f, sides).double()
        for name, f in visit.adapter.items()
    ]
    norm = float(torch.cat([x.flatten() for x in steps]).norm())
    assert norm == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("sides", SIDES)
def test_a_penalty_pulls_the_trained_side_alone(sides: Sides) -> None:
    ours = model(dtype=torch.float64)
    (visit,) = visits(ours, 1)
    asked: list[tuple[bool, bool]] = []

    def penalty(live: Live, _: Live) -> Tensor:
        asked.append(next((b.requires_grad, a.requires_grad) for b, a in live.values()))
        return sum(((b**2).sum() + (a**2).sum() for b, a in live.values()), torch.zeros(()))

    pulled = train(ours, visit, sides=sides, penalty=penalty)
    plain = train(ours, visits(ours, 1)[0], sides=sides)
    assert set(asked) == {(sides == "b", sides == "a")}
    rest = "a" if sides == "b" else "b"
    for name, f in pulled.adapter.items():
        near, far = (float(getattr(x, sides).norm()) for x in (f, plain.adapter[name]))
        assert f.rank == 0 or near < far
        assert torch.equal(getattr(f, rest), getattr(visit.adapter[name], rest))
