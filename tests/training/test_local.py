"""Local training against the plain loop: transformers' loss, all logits, torch's optimisers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from flexlora.adapters import Adapter, Factors
from flexlora.errors import DataError, TrainingError
from flexlora.models import AdaptedModel, BaseModel, LoRALinear, load_model
from flexlora.training import Recipe, collate, plan, train
from flexlora.training.loss import ResponseLoss
from models.oracle import FAMILIES, Peft, encoded, random_adapter, random_model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain_loss(model: object, batch: object) -> Tensor:
    """transformers' own loss, over all logits and with the padding masked."""
    return model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels
    ).loss


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_the_loss_and_gradients_equal_the_plain_ones(family: str, loss_on: str) -> None:
    ours = AdaptedModel(random_model(family))
    left, right = ours.start([random_adapter(ours.layers, 2)])
    groups = [*left, *right]
    batch = collate(encoded(5), 0, loss_on=loss_on)
    grads = []
    with ResponseLoss(ours.model).active() as loss_of:
        for loss in (loss_of(batch), plain_loss(ours, batch)):
            loss.backward()
            grads.append((loss.detach(), [p.grad.clone() for p in groups]))
            for p in groups:
                p.grad = None
    (fast, left), (slow, right) = grads
    assert torch.allclose(fast, slow, atol=1e-6)
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(left, right, strict=True))
    assert ours(input_ids=batch.input_ids).logits.shape[:2] == batch.input_ids.shape


def test_what_a_model_does_to_its_logits_is_kept() -> None:
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=61,
        final_logit_softcapping=0.5,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    batch = collate(encoded(4), 0)
    with ResponseLoss(model).active() as loss_of:
        assert torch.allclose(loss_of(batch), plain_loss(model, batch), atol=1e-6)


def test_an_adapted_head_is_trained_too() -> None:
    ours = AdaptedModel(random_model("llama"), ("lm_head", "q_proj"))
    batch = collate(encoded(4), 0)
    adapter = random_adapter(ours.layers, 2)
    ours.start([adapter])
    expected = plain_loss(ours, batch).item()
    ours.stop()
    result = train(ours, adapter, encoded(4), Recipe("sgd", 0.1, 4), seeded())
    assert result.first_loss == pytest.approx(expected, abs=1e-6)
    assert not torch.equal(result.adapter["lm_head"].b, adapter["lm_head"].b)


class Headless(nn.Module):
    """A model that names no output head."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Tensor) -> object:
        return self.inner(**inputs)


def test_a_model_without_a_known_head_computes_all_logits() -> None:
    model = Headless(random_model("llama").model)
    for rows in (1, 4):
        batch = collate(encoded(rows), 0)
        with ResponseLoss(model).active() as loss_of:
            assert torch.allclose(loss_of(batch), plain_loss(model, batch), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_training_equals_peft_with_the_plain_loop(family: str, optimiser: str) -> None:
    data = encoded(11)
    recipe = Recipe(
        optimiser, 1e-2, 3, epochs=2, weight_decay=0.01, clip_norm=0.5, loss_on="response"
    )
    ours = AdaptedModel(random_model(family))
    adapter = random_adapter(ours.layers, 2, scale=2.0)
    peft = Peft(random_model(family), adapter, 4.0, False)
    before = torch.get_rng_state()
    result = train(ours, adapter, data, recipe, seeded(7))
    assert torch.equal(torch.get_rng_state(), before)

    parameters = [p for p in peft.model.parameters() if p.requires_grad]
    make = torch.optim.AdamW if optimiser == "adamw" else torch.optim.SGD
    steps = make(parameters, lr=1e-2, weight_decay=0.01)
    lengths = [len(x.prompt) + len(x.response) for x in data]
    losses, counts = [], []
    for indices in plan(lengths, 3, 2, seeded(7)):
        batch = collate([data[i] for i in indices], 0)
        steps.zero_grad()
        loss = plain_loss(peft.model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.5)
        steps.step()
        losses.append(loss.item())
        counts.append(int((batch.labels != -100).sum()))
    for name, (b, a) in peft.factors.items():
        assert torch.allclose(result.adapter[name].b, b, atol=1e-5)
        assert torch.allclose(result.adapter[name].a, a, atol=1e-5)
    mean = sum(x * n for x, n in zip(losses, counts, strict=True)) / sum(counts)
    assert result.loss == pytest.approx(mean, abs=1e-5)
    assert result.first_loss == pytest.approx(losses[0], abs=1e-5)
    assert result.last_loss == pytest.approx(losses[-1], abs=1e-5)
    assert (result.steps, result.examples, result.tokens) == (8, 11, 2 * sum(lengths))


def test_training_repeats_learns_and_leaves_the_model_as_it_was() -> None:
    ours = AdaptedModel(random_model("llama"))
    data = encoded(6)
    adapter = random_adapter(ours.layers, 4)
    start = {name: (f.b.clone(), f.a.clone()) for name, f in adapter.items()}
    inputs = collate(data, 0).input_ids
    before = ours(input_ids=inputs).logits
    recipe = Recipe("adamw", 1e-2, 3, epochs=20, dropout=0.1)
    first, second = (train(ours, adapter, data, recipe, seeded(3)) for _ in range(2))
    other = train(ours, adapter, data, recipe, seeded(4))
    assert first.last_loss < 0.5 * first.first_loss
    assert first.loss == second.loss != other.loss
    for name, (b, a) in start.items():
        assert torch.equal(first.adapter[name].b, second.adapter[name].b)
        assert torch.equal(adapter[name].b, b)
        assert torch.equal(adapter[name].a, a)
    assert torch.equal(ours(input_ids=inputs).logits, before)
    short = train(ours, adapter, data, Recipe("sgd", 1e-2, 3, epochs=20, max_steps=3), seeded())
    assert short.steps == 3


def test_origin_starts_at_base_plus_delta() -> None:
    ours = AdaptedModel(random_model("llama"))
    adapter = random_adapter(ours.layers, 2)
    data = encoded(4)
    recipe = Recipe("sgd", 1e-3, 4)
    zero = Adapter({n: Factors(torch.zeros_like(f.b), f.a, f.scale) for n, f in adapter.items()})
    bare = train(ours, zero, data, recipe, seeded())
    with_origin = train(ours, adapter, data, recipe, seeded(), origin=True)
    without = train(ours, adapter, data, recipe, seeded())
    assert with_origin.first_loss == pytest.approx(bare.first_loss, abs=1e-5)
    assert abs(without.first_loss - bare.first_loss) > 1e-3
    ours.set_delta({name: factors.product() for name, factors in adapter.items()})
    held = train(ours, adapter, data, recipe, seeded(), origin=True)
    assert held.first_loss == pytest.approx(without.first_loss, abs=1e-4)
    for name in adapter:  # The increment form computes as plain training does.
        assert torch.allclose(held.adapter[name].b, without.adapter[name].b, atol=1e-5)


def test_a_penalty_pulls_and_is_not_reported() -> None:
    ours = AdaptedModel(random_model("llama"))
    adapter = random_adapter(ours.layers, 2)
    data = encoded(4)
    recipe = Recipe("sgd", 0.1, 4, epochs=5, clip_norm=None)
    seen: list[set[str]] = []

    def proximal(live: object) -> Tensor:
        seen.append(set(live))
        return 0.5 * sum(
            ((b - adapter[name].b) ** 2).sum() + ((a - adapter[name].a) ** 2).sum()
            for name, (b, a) in live.items()
        )

    plain = train(ours, adapter, data, recipe, seeded())
    pulled = train(ours, adapter, data, recipe, seeded(), penalty=proximal)
    nothing = train(ours, adapter, data, recipe, seeded(), penalty=lambda _: None)
    assert len(seen) == 5
    assert seen[0] == set(adapter)
    assert pulled.first_loss == plain.first_loss
    assert nothing.loss == plain.loss

    def moved(adapted: Adapter) -> float:
        return sum(float((f.b - adapter[name].b).norm()) for name, f in adapted.items())

    assert moved(pulled.adapter) < 0.95 * moved(plain.adapter)


def test_divergence_is_an_error_and_leaves_the_model_whole() -> None:
    ours = AdaptedModel(random_model("llama"))
    adapter = random_adapter(ours.layers, 2)
    recipe = Recipe("sgd", 1e38, 2, epochs=40, clip_norm=None)
    with pytest.raises(
        TrainingError, match=r"the loss became NaN or infinite at step \d+ .*; lower"
    ):
        train(ours, adapter, encoded(4), recipe, seeded())
    assert torch.isfinite(ours(input_ids=torch.tensor([[3, 4]])).logits).all()

    def infinite(live: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        return sum((1e38 * b.sum() for b, _ in live.values()), torch.zeros(()))

    recipe = Recipe("sgd", 1e3, 4, clip_norm=None)  # One step: no later loss can tell.
    with pytest.raises(TrainingError, match="the adapter became NaN or infinite at step 1"):
        train(ours, adapter, encoded(4), recipe, seeded(), penalty=infinite)


def test_a_start_that_fails_half_way_leaves_the_model_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = AdaptedModel(random_model("llama"))
    ids = torch.tensor([[3, 4]])
    before = ours(input_ids=ids).logits
    start, started = LoRALinear.start, []

    def exhausted(layer: LoRALinear, *rest: Any, **options: Any) -> Any:
        started.append(layer)
        if len(started) == 3:
            raise torch.OutOfMemoryError("tried to allocate 3 GiB")
        return start(layer, *rest, **options)

    monkeypatch.setattr(LoRALinear, "start", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        train(ours, random_adapter(ours.layers, 2), encoded(4), Recipe("sgd", 0.1, 2), seeded())
    assert torch.equal(ours(input_ids=ids).logits, before)


def test_data_that_cannot_be_trained_on() -> None:
    ours = AdaptedModel(random_model("llama"))
    adapter = random_adapter(ours.layers, 2)
    recipe = Recipe("sgd", 1e-3, 2)
    with pytest.raises(DataError, match="the client has no training examples"):
        train(ours, adapter, [], recipe, seeded())
    long = encoded(2)
    long[1].prompt = tuple(range(3, 60)) * 2
    with pytest.raises(DataError, match=r"example e1 has 1.. tokens, expected at most 64"):
        train(ours, adapter, long, recipe, seeded())
    empty = encoded(1)
    empty[0].response = ()
    with pytest.raises(DataError, match="example e0 has an empty response"):
        train(ours, adapter, empty, recipe, seeded())


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
    result = train(ours, adapter, encoded(8), Recipe("adamw", 5e-3, 4, epochs=10), seeded())
    assert result.last_loss < 0.8 * result.first_loss
    assert all(f.b.dtype == torch.float32 for f in result.adapter.values())
