"""Activations made anew: the same numbers to the last bit, with fewer of them held."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from flexlora.errors import ModelError
from flexlora.models import AdaptedModel, LoRALinear, load_model
from flexlora.models.checkpointing import checkpoint_layers
from flexlora.training import Trained, train_cohort
from models.layers import STACKED
from models.oracle import random_adapter, random_model
from pairs import pairs
from training.clients import ATTENTION, visits

# OPT's layers drop out by themselves in training mode, GPT-2's by their children.
FAMILIES = ("llama", "gpt2", "neox", "opt", "gemma2")


def pair(family: str, attention: str | None = None) -> tuple[AdaptedModel, AdaptedModel]:
    """The same model twice: the second checkpoints."""
    one, two = (random_model(family, attention=attention) for _ in range(2))
    checkpoint_layers(two.model, family)
    return AdaptedModel(one), AdaptedModel(two)


def assert_same(one: list[Any], two: list[Any]) -> None:
    for kept, anew in zip(one, two, strict=True):
        assert isinstance(kept, Trained)
        assert isinstance(anew, Trained)
        assert kept.loss == anew.loss
        for name, factors in kept.adapter.items():
            assert torch.equal(factors.a, anew.adapter[name].a)
            assert torch.equal(factors.b, anew.adapter[name].b)


@pairs(family=FAMILIES, dropout=[0.0, 0.3], attention=ATTENTION, stacked=STACKED)
def test_training_is_the_same_bit_for_bit(
    family: str, dropout: float, attention: str | None, stacked: bool
) -> None:
    kept, anew = pair(family, attention)
    assert kept.packs == anew.packs
    assert_same(
        *(
            train_cohort(x, visits(x, 3, dropout=dropout, max_steps=3), stacked=stacked)
            for x in (kept, anew)
        )
    )


def test_so_it_is_with_delta_origin_and_penalty() -> None:
    models = pair("llama")
    delta = random_adapter(models[0].layers, 2, seed=7, scale=0.5)

    def shrink(live: Any, _: Any) -> torch.Tensor:
        return 0.1 * sum((b**2).sum() for b, _ in live.values())

    found = []
    for model in models:
        model.set_delta({name: factors.product() for name, factors in delta.items()})
        given = visits(model, 3, dropout=0.3, max_steps=3)
        found.append(train_cohort(model, given, origin=True, penalty=shrink))
    assert_same(*found)


def test_layers_keep_their_inputs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd holds between the passes: less than half, and no dropout mask."""
    held: list[int] = []
    alive: list[int] = []
    for model in pair("llama"):
        masks: list[weakref.ref[torch.Tensor]] = []
        draw = LoRALinear._mask

        def noted(
            self: LoRALinear,
            *args: Any,
            draw: Callable[..., torch.Tensor] = draw,
            masks: list[weakref.ref[torch.Tensor]] = masks,
        ) -> torch.Tensor:
            mask = draw(self, *args)
            masks.append(weakref.ref(mask))
            return mask

        sizes: dict[int, int] = {}

        def saved(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with monkeypatch.context() as patch:
            patch.setattr(LoRALinear, "_mask", noted)
            carried = model.start([random_adapter(model.layers, 2)], dropout=0.3)
            carried.sow([1])
            parameters = {x.untyped_storage().data_ptr() for x in model.model.parameters()}
            with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
                ids = torch.arange(3, 43)[None]
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            held.append(sum(size for place, size in sizes.items() if place not in parameters))
            alive.append(sum(mask() is not None for mask in masks))
            assert len(masks) == len(model.layers)
            loss.backward()
            assert carried.trainables[0].gradient.norm() > 0
    assert held[1] < held[0] / 2
    assert alive == [len(model.layers), 0]


def test_generation_with_a_cache_is_the_same() -> None:
    """With gradients on, too: a second pass through the layers would fill the cache twice."""
    ids = torch.arange(3, 10)[None]
    found = []
    for model in pair("llama"):
        began = model(input_ids=ids[:, :-1], use_cache=True)
        assert began.past_key_values.get_seq_length() == 6
        model.start([random_adapter(model.layers, 2)])
        last = model(input_ids=ids[:, -1:], past_key_values=began.past_key_values).logits
        last.sum().backward()
        assert began.past_key_values.get_seq_length() == 7
        found.append(last)
    assert torch.equal(*found)


def test_a_model_without_such_layers_is_refused() -> None:
    class Stubborn(transformers.LlamaForCausalLM):  # type: ignore[misc]  # Has no types here.
        supports_gradient_checkpointing = False

    model = Stubborn(random_model("llama").model.config)
    message = "mine is a Stubborn, which has no layers that can be checkpointed; set model.checkp"
    with pytest.raises(ModelError, match=message):
        checkpoint_layers(model, "mine")
    with pytest.raises(ModelError, match="mine is a Linear, which has no layers"):
        checkpoint_layers(torch.nn.Linear(2, 2), "mine")


def test_it_is_an_option_of_loading() -> None:
    plain: Any = load_model("tiny").model
    anew: Any = load_model("tiny", checkpointing=True).model
    ids = torch.arange(3, 9)[None]
    assert "forward" not in vars(plain.model.layers[0])
    assert "forward" in vars(anew.model.layers[0])
    assert torch.equal(plain(input_ids=ids).logits, anew(input_ids=ids).logits)
