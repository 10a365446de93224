"""Single weights of the base, trained: what a whole gradient says of them, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flexlora.adapters.sparse import places, spread
from flexlora.errors import DataError, ModelError, TrainingError
from flexlora.lowrank import LowRank
from flexlora.models import AdaptedModel, load_model
from flexlora.models.chosen import choosing
from flexlora.models.widened import WideLinear
from flexlora.training import Lesson, Recipe, train_weights
from models.oracle import encoded, padded, random_model

SGD = Recipe("sgd", 0.5, 8, clip_norm=None, dropout=0.3)
At = dict[str, torch.Tensor]


def adapted(family: str = "llama", dtype: torch.dtype = torch.float32) -> AdaptedModel:
    return AdaptedModel(random_model(family, dtype), ["attention"])


def case(model: AdaptedModel, count: int = 60, own: int = 40) -> tuple[At, At, dict[str, int]]:
    at = {x.name: places(x, count, seed=5) for x in model.layers}
    draw = torch.Generator().manual_seed(1)
    start = {x.name: 0.05 * torch.randn(count, generator=draw) for x in model.layers}
    return at, start, {x.name: own for x in model.layers}


def lesson(recipe: Recipe = SGD, seed: int = 0, examples: int = 4) -> Lesson:
    return Lesson(encoded(examples), recipe, torch.Generator().manual_seed(seed))


def weights(model: AdaptedModel) -> dict[str, torch.Tensor]:
    return {name: x.detach().clone() for name, x in model.model.named_parameters()}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_step_is_the_whole_gradient_at_the_places(family: str) -> None:
    model = adapted(family)
    at, start, own = case(model)
    got = train_weights(model, lesson(), at, start, own)
    # The slow twin: the same model at W₀ + start, every weight of it with a gradient of its own.
    twin = adapted(family)
    for layer in twin.layers:
        weight, moved = twin.wrapped[layer.name].weight, start[layer.name]
        dense = spread(moved, at[layer.name], layer)
        weight.data += dense if family == "llama" else dense.T
        weight.requires_grad_(True)
    twin.model(**padded(encoded(4))).loss.backward()
    for layer in twin.layers:
        gradient = twin.wrapped[layer.name].weight.grad
        assert gradient is not None
        gradient = gradient if family == "llama" else gradient.T
        wanted = -0.5 * gradient.flatten()[at[layer.name][:40]]
        found = got.change[layer.name]
        assert found.shape == (40,)
        assert float((found - wanted).norm()) < 1e-4 * float(wanted.norm())
    assert (got.steps, got.examples) == (1, 4)


def test_the_base_is_itself_again_bit_for_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = adapted(dtype=dtype)
        before = weights(model)
        train_weights(model, lesson(Recipe("adamw", 1e-2, 2, epochs=2)), *case(model))
        assert all(torch.equal(x, before[name]) for name, x in weights(model).items())
        assert not any(x.requires_grad or x.grad is not None for x in model.model.parameters())


def test_no_delta_stands_under_it() -> None:
    """A change is of W₀ + start, whatever the model stood on before."""
    plain, moved = adapted(), adapted()
    moved.set_delta({x.name: LowRank(torch.ones(x.m, 1), torch.ones(1, x.n)) for x in moved.layers})
    ours, theirs = (train_weights(x, lesson(), *case(x)) for x in (plain, moved))
    assert all(torch.equal(ours.change[name], theirs.change[name]) for name in ours.change)


def test_more_steps_learn_and_only_what_the_mask_chooses_moves() -> None:
    model = adapted()
    at, start, own = case(model, own=30)
    recipe = Recipe("adamw", 1e-2, 2, epochs=15)
    got = train_weights(model, lesson(recipe), at, start, own)
    assert got.last_loss < 0.9 * got.first_loss
    with choosing(model, at, start, own) as chosen:
        chosen.vector.data += 1.0
        chosen.place()
        for layer in model.layers:
            moved = model.wrapped[layer.name].weight - adapted().wrapped[layer.name].weight
            step = start[layer.name].clone()
            step[:30] += 1.0
            wanted = spread(step, at[layer.name], layer)
            assert torch.allclose(moved, wanted, atol=1e-6)
            assert torch.equal(moved == 0.0, wanted == 0.0)


def test_the_order_of_batches_is_the_generators() -> None:
    recipe = Recipe("adamw", 1e-2, 1)
    model = adapted()
    one, same, other = (
        train_weights(model, lesson(recipe, seed, examples=8), *case(model)) for seed in (0, 0, 1)
    )
    name = model.layers[0].name
    assert torch.equal(one.change[name], same.change[name])
    assert not torch.equal(one.change[name], other.change[name])


def test_a_processor_without_instructions_for_bfloat16_trains_weights_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for lacks in (False, True):
        for module in ("widened", "base"):
            monkeypatch.setattr(
                f"flexlora.models.{module}.lacks_bfloat16", lambda lacks=lacks: lacks
            )
        model = AdaptedModel(load_model("tiny", "bfloat16"), ["attention"])
        kinds = {type(x.base) is WideLinear for x in model.wrapped.values()}
        assert kinds == {lacks}
        got = train_weights(model, lesson(), *case(model))
        found.append(torch.cat([*got.change.values()]))
    assert float((found[0] - found[1]).norm()) < 0.05 * float(found[0].norm())


def test_what_cannot_be_trained_is_told_and_leaves_the_base_as_it_was() -> None:
    model = adapted()
    before = weights(model)
    with pytest.raises(DataError, match="no training examples"):
        train_weights(model, lesson(examples=0), *case(model))
    wild = Recipe("sgd", 1e30, 1, epochs=3, clip_norm=None)
    with pytest.raises(TrainingError, match="became NaN or infinite at step"):
        train_weights(model, lesson(wild), *case(model))
    assert all(torch.equal(x, before[name]) for name, x in weights(model).items())


def test_packed_and_shared_weights_are_refused() -> None:
    model = adapted()
    assert model.branches  # Found out while it is whole.
    first = model.wrapped["model.layers.0.self_attn.q_proj"]
    first.base.weight = nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ModelError, match=r"is quantised.*set model.quantise to none"):
        train_weights(model, lesson(), *case(model))
    for targets in (["attention"], ["q_proj"]):  # With the other one, and alone.
        base = random_model("llama")
        q, o = (base.model.get_submodule(f"model.layers.1.self_attn.{x}_proj") for x in "qo")
        q.weight = o.weight
        model = AdaptedModel(base, targets)
        with pytest.raises(ModelError, match="_proj of llama shares its weight with another"):
            train_weights(model, lesson(), *case(model))
