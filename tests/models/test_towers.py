"""The text tower is what a model runs through for texts alone; no target leaves it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flexlora.errors import ModelError
from flexlora.models import AdaptedModel, BaseModel
from flexlora.models.linear_like import linear_shape
from flexlora.models.targets import find_layers, linear_width, output_head
from flexlora.models.towers import text_tower
from models.families import multimodal_names, tiny, tiny_multimodal

# Of each way to keep a tower: beside the decoder, inside it, without a name, with none at all.
DOZEN = [
    "fuyu",
    "gemma3",
    "git",
    "granite_speech",
    "idefics3",
    "kosmos-2.5",
    "llava",
    "minicpmv4_6",
]
DOZEN += [
    "mllama",
    "ovis2",
    "phi4_multimodal",
    "qwen2_audio",
    "qwen2_vl",
    "qwen3_vl_moe",
    "voxtral",
]


def model_of(name: str) -> Any:
    model = tiny_multimodal(name)
    assert model is not None
    return model


def linear_of(model: Any) -> set[str]:
    return {name for name, module in model.named_modules() if linear_shape(module)}


def run_through(model: Any) -> set[str]:
    """The linear-like layers that a few tokens alone call."""
    found: set[str] = set()
    for name in linear_of(model):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: found.add(name))
    with torch.no_grad():
        model(input_ids=torch.arange(5, 10)[None])
    return found


def held(model: Any) -> set[str]:
    holds = text_tower(model, output_head(model))
    return {name for name in linear_of(model) if holds(name)}


@pytest.mark.parametrize("name", DOZEN)
def test_the_text_tower_is_what_texts_run_through(name: str) -> None:
    model = model_of(name)
    assert held(model) == run_through(model)


@pytest.mark.soak
def test_every_text_tower_is_what_texts_run_through() -> None:
    agree = []
    for name in multimodal_names():
        model = tiny_multimodal(name)
        if model is None:
            continue
        ours = held(model)
        assert ours, name
        try:
            run = run_through(model)
        except Exception:  # it wants an image
            continue
        assert ours == run, name
        agree.append(name)
    assert len(agree) > 50


@pytest.mark.parametrize("name", ["bart", "gemma3_text", "llama", "mamba", "whisper"])
def test_a_model_of_text_alone_is_its_own_tower(name: str) -> None:
    base = tiny(name)
    assert base is not None
    assert held(base.model) == linear_of(base.model)


@pytest.mark.parametrize("target", ["all-linear", "attention", "mlp", "k_proj", "*.layers.0.*"])
@pytest.mark.parametrize("name", ["gemma3", "llava", "qwen2_vl", "idefics3"])
def test_targets_reach_the_text_tower_alone(name: str, target: str) -> None:
    model = model_of(name)
    found = {layer.name for layer in find_layers(model, name, [target])}
    assert found
    assert found <= held(model) - {"lm_head"}
    assert not any("vision" in layer or "visual" in layer for layer in found)


@pytest.mark.parametrize(
    "target",
    [
        "model.vision_tower.encoder.layers.0.self_attn.q_proj",
        "*.vision_tower.*",
        "fc1",
        "vision_tower",
        "multi_modal_projector",
        "*.vision_tower.head.*",
    ],
)
def test_what_texts_do_not_run_through_is_refused_by_name(target: str) -> None:
    base = tiny("gemma3")
    assert base is not None
    with pytest.raises(ModelError) as caught:
        AdaptedModel(base, (target,))
    said = str(caught.value)
    assert f'target "{target}" matches model.' in said
    assert "of gemma3, which texts do not run through; name layers of the text tower" in said
    assert 'such as "attention"' in said
    assert "expert" not in said


def test_of_what_a_glob_matches_in_a_tower_a_linear_layer_is_named() -> None:
    base = tiny("gemma3")
    assert base is not None
    with pytest.raises(ModelError, match=r"matches model\.vision_tower\.\S+_proj of gemma3, which"):
        AdaptedModel(base, ("*.vision_tower.*",))


def test_the_width_is_what_a_token_passes_through() -> None:
    model = model_of("gemma3")
    text = BaseModel(model, None, "gemma3", 64)
    layers = AdaptedModel(text, ("all-linear",))
    assert layers.width == sum(x.m + x.n for x in layers.layers)
    assert layers.width == linear_width(model)
