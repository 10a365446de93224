"""One client's training against the plain loop: transformers' loss, PEFT, torch's optimisers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from flexlora.adapters import Adapter, Factors
from flexlora.errors import DataError, TrainingError
from flexlora.models import AdaptedModel, BaseModel, load_model
from flexlora.models.trainable import Live
from flexlora.tasks.prompts import Encoded
from flexlora.training import Recipe, Visit, plan, train
from models.oracle import FAMILIES, Peft, apart, encoded, plain_loss, random_adapter, random_model
from pairs import pairs
from training.clients import ATTENTION, allowed


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def visit(adapter: Adapter, data: list[Encoded], recipe: Recipe, seed: int = 0) -> Visit:
    return Visit(adapter, data, recipe, seeded(seed))


@pairs(
    family=FAMILIES,
    optimiser=["adamw", "sgd"],
    dtype=[torch.float32, torch.float64],
    attention=ATTENTION,
    alike=[0, 20],
)
def test_training_equals_peft_with_the_plain_loop(
    family: str,
    optimiser: Literal["adamw", "sgd"],
    dtype: torch.dtype,
    attention: str | None,
    alike: int,
) -> None:
    """Twenty steps: the products within what other orders of sums make of them, whether or not
    examples begin alike."""
    data = encoded(10, alike=alike)
    recipe = Recipe(
        optimiser, 1e-2, 3, epochs=5, weight_decay=0.01, clip_norm=0.5, loss_on="response"
    )
    ours = AdaptedModel(random_model(family, dtype, attention=attention))
    adapter = random_adapter(ours.layers, 2, scale=2.0, dtype=dtype)
    peft = Peft(random_model(family, dtype), adapter, 4.0, False)
    before = torch.get_rng_state()
    result = train(ours, visit(adapter, data, recipe, 7))
    assert torch.equal(torch.get_rng_state(), before)
    assert ours.packs == (attention is None)

    parameters = [p for p in peft.model.parameters() if p.requires_grad]
    make = torch.optim.AdamW if optimiser == "adamw" else torch.optim.SGD
    steps = make(parameters, lr=1e-2, weight_decay=0.01)
    lengths = [len(x.prompt) + len(x.response) for x in data]
    losses, counts = [], []
    for indices in plan(lengths, 3, 5, seeded(7)):
        examples = [data[i] for i in indices]
        steps.zero_grad()
        loss = plain_loss(peft.model, examples)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.5)
        steps.step()
        losses.append(loss.item())
        counts.append(sum(len(x.response) for x in examples))
    theirs = Adapter({x: Factors(b.data, a.data, 2.0) for x, (b, a) in peft.factors.items()})
    # SGD hands a gradient's error on; AdamW makes more of it.
    limit = allowed(dtype, attention) / (10.0 if optimiser == "sgd" else 1.0)
    assert apart(result.adapter, theirs) < limit
    assert apart(result.adapter, adapter) > 1e-2
    mean = sum(x * n for x, n in zip(losses, counts, strict=True)) / sum(counts)
    # transformers takes its softmax in float32, whatever the model's numbers are.
    near = 1e-6 if dtype == torch.float64 else 1e-5  # Of losses near 5, whose eps is 5e-7.
    assert result.loss == pytest.approx(mean, abs=near)
    assert result.first_loss == pytest.approx(losses[0], abs=near)
    assert result.last_loss == pytest.approx(losses[-1], abs=1e-5)
    assert (result.steps, result.examples, result.tokens) == (20, 10, 5 * sum(lengths))
    assert result.adapter.base == family


def test_training_repeats_learns_and_leaves_the_model_as_it_was() -> None:
    ours = AdaptedModel(random_model("llama"))
    data = encoded(6)
    adapter = random_adapter(ours.layers, 4)
    start = {name: (f.b.clone(), f.a.clone()) for name, f in adapter.items()}
    ids = torch.tensor([[3, 4, 5]])
    before = ours(input_ids=ids).logits
    recipe = Recipe("adamw", 1e-2, 3, epochs=30, dropout=0.1)
    first, second = (train(ours, visit(adapter, data, recipe, 3)) for _ in range(2))
    other = train(ours, visit(adapter, data, recipe, 4))
    assert first.last_loss < 0.5 * first.first_loss
    assert first.loss == second.loss != other.loss
    for name, (b, a) in start.items():
        assert torch.equal(first.adapter[name].b, second.adapter[name].b)
        assert torch.equal(adapter[name].b, b)
        assert torch.equal(adapter[name].a, a)
    assert torch.equal(ours(input_ids=ids).logits, before)
    short = train(ours, visit(adapter, data, Recipe("sgd", 1e-2, 3, epochs=20, max_steps=3)))
    assert short.steps == 3


def test_examples_are_those_held_however_few_were_trained_on() -> None:
    """They are what a client is weighed by: a bound of steps does not change its weight."""
    ours = AdaptedModel(random_model("llama"), ("q_proj",))
    data, adapter = encoded(7), random_adapter(ours.layers, 2)
    for most in (1, 2, None):
        trained = train(ours, visit(adapter, data, Recipe("sgd", 1e-2, 2, max_steps=most)))
        assert trained.examples == 7
        assert trained.steps == (most or 4)


def test_an_adapted_head_is_trained_too() -> None:
    ours = AdaptedModel(random_model("llama"), ("lm_head", "q_proj"))
    data = encoded(4)
    adapter = random_adapter(ours.layers, 2)
    ours.start([adapter])
    expected = plain_loss(ours, data).item()
    ours.stop()
    result = train(ours, visit(adapter, data, Recipe("sgd", 0.1, 4)))
    assert result.first_loss == pytest.approx(expected, abs=1e-6)
    assert not torch.equal(result.adapter["lm_head"].b, adapter["lm_head"].b)


def test_origin_starts_at_base_plus_delta() -> None:
    ours = AdaptedModel(random_model("llama"))
    adapter = random_adapter(ours.layers, 2)
    data = encoded(4)
    recipe = Recipe("sgd", 1e-3, 4)
    zero = Adapter({n: Factors(torch.zeros_like(f.b), f.a, f.scale) for n, f in adapter.items()})
    bare = train(ours, visit(zero, data, recipe))
    with_origin = train(ours, visit(adapter, data, recipe), origin=True)
    without = train(ours, visit(adapter, data, recipe))
    assert with_origin.first_loss == pytest.approx(bare.first_loss, abs=1e-5)
    assert abs(without.first_loss - bare.first_loss) > 1e-3
    ours.set_delta({name: factors.product() for name, factors in adapter.items()})
    held = train(ours, visit(adapter, data, recipe), origin=True)
    assert held.first_loss == pytest.approx(without.first_loss, abs=1e-4)
    for name in adapter:  # The increment form computes as plain training does.
        assert torch.allclose(held.adapter[name].b, without.adapter[name].b, atol=1e-5)


def test_a_penalty_pulls_and_is_not_reported() -> None:
    ours = AdaptedModel(random_model("llama"))
    adapter = random_adapter(ours.layers, 2)
    data = encoded(4)
    recipe = Recipe("sgd", 0.1, 4, epochs=5, clip_norm=None)
    seen: list[set[str]] = []

    def proximal(live: Live, sent: Live) -> Tensor:
        seen.append(set(live))
        for name, (b, a) in sent.items():
            assert torch.equal(b, adapter[name].b)
            assert torch.equal(a, adapter[name].a)
        parts = (
            ((b - sent[name][0]) ** 2).sum() + ((a - sent[name][1]) ** 2).sum()
            for name, (b, a) in live.items()
        )
        return 0.5 * sum(parts, torch.zeros(()))

    plain = train(ours, visit(adapter, data, recipe))
    pulled = train(ours, visit(adapter, data, recipe), penalty=proximal)
    nothing = train(ours, visit(adapter, data, recipe), penalty=lambda *_: None)
    assert len(seen) == 5
    assert seen[0] == set(adapter)
    assert pulled.first_loss == plain.first_loss
    assert nothing.loss == plain.loss

    def moved(adapted: Adapter) -> float:
        return sum(float((f.b - adapter[name].b).norm()) for name, f in adapted.items())

    assert moved(pulled.adapter) < 0.95 * moved(plain.adapter)


@pytest.mark.parametrize("sides", ["both", "b", "a"])
def test_a_proximal_term_is_the_penalty_that_it_stands_for(
    sides: Literal["both", "b", "a"],
) -> None:
    """μ/2 ‖trained − received‖² over the sides that are trained."""
    ours = AdaptedModel(random_model("llama"))
    adapter, data = random_adapter(ours.layers, 2), encoded(4)
    recipe = Recipe("sgd", 0.1, 4, epochs=5, clip_norm=1.0)

    def written_out(live: Live, sent: Live) -> Tensor:
        moved = ((x, y) for name in live for x, y in zip(live[name], sent[name], strict=True))
        parts = [(x - y).square().sum() for x, y in moved if x.requires_grad]
        return 0.75 * torch.stack(parts).sum()

    asked = replace(recipe, proximal=1.5)
    pulled = train(ours, visit(adapter, data, asked), sides=sides)
    wanted = train(ours, visit(adapter, data, recipe), sides=sides, penalty=written_out)
    plain = train(ours, visit(adapter, data, recipe), sides=sides)
    assert pulled.loss != plain.loss
    for name, factors in pulled.adapter.items():
        torch.testing.assert_close(factors.b, wanted.adapter[name].b, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(factors.a, wanted.adapter[name].a, rtol=1e-4, atol=1e-6)


def test_divergence_is_an_error_and_leaves_the_model_whole() -> None:
    ours = AdaptedModel(random_model("llama"))
    adapter = random_adapter(ours.layers, 2)
    recipe = Recipe("sgd", 1e38, 2, epochs=40, clip_norm=None)
    with pytest.raises(
        TrainingError, match=r"the loss became NaN or infinite at step \d+ .*; lower"
    ):
        train(ours, visit(adapter, encoded(4), recipe))
    assert torch.isfinite(ours(input_ids=torch.tensor([[3, 4]])).logits).all()

    def infinite(live: Live, _: Live) -> Tensor:
        return sum((1e38 * b.sum() for b, _ in live.values()), torch.zeros(()))

    recipe = Recipe("sgd", 1e3, 4, clip_norm=None)  # One step: no later loss can tell.
    with pytest.raises(TrainingError, match="the adapter became NaN or infinite at step 1"):
        train(ours, visit(adapter, encoded(4), recipe), penalty=infinite)


def test_data_that_cannot_be_trained_on() -> None:
    ours = AdaptedModel(random_model("llama"))
    adapter = random_adapter(ours.layers, 2)
    recipe = Recipe("sgd", 1e-3, 2)
    with pytest.raises(DataError, match="the client has no training examples"):
        train(ours, visit(adapter, [], recipe))
    long = encoded(2)
    long[1] = replace(long[1], prompt=tuple(range(3, 60)) * 2)
    with pytest.raises(DataError, match=r"example 'e1' has 1.. tokens, expected at most 64"):
        train(ours, visit(adapter, long, recipe))
    for part in ("prompt", "response"):
        change: dict[str, Any] = {part: ()}
        empty = [replace(encoded(1)[0], **change)]
        with pytest.raises(DataError, match=f"example 'e0' has an empty {part}"):
            train(ours, visit(adapter, empty, recipe))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_real_model_learns(shared: Path, dtype: str) -> None:
    base: BaseModel = load_model(shared / "models" / "stories260K", dtype)
    ours = AdaptedModel(base)
    generator = seeded(1)
    adapter = Adapter(
        {
            x.name: Factors(
                torch.zeros(x.m, 4), torch.randn(4, x.n, generator=generator) / x.n**0.5, 2.0
            )
            for x in ours.layers
        }
    )
    result = train(ours, visit(adapter, encoded(8), Recipe("adamw", 5e-3, 4, epochs=10)))
    assert result.last_loss < 0.8 * result.first_loss
    assert all(f.b.dtype == torch.float32 for f in result.adapter.values())
