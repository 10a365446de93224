"""Sizes of a model from its layers on no device: those that it has when it is loaded."""

from __future__ import annotations

import pytest
from transformers import Gemma2Config, GPT2Config

from flexlora.errors import ModelError
from flexlora.models import load_model
from flexlora.models.shape import shape_of
from flexlora.models.targets import find_layers
from flexlora.models.weights import outline


def test_the_embedded_model() -> None:
    base = load_model("tiny")
    shape = shape_of(load_model("tiny", without_weights=True).model, "tiny")
    assert shape.layers == find_layers(base.model, "tiny", ("all-linear",))
    assert shape.parameters == sum(p.numel() for p in base.model.parameters())
    assert shape.linear == 4 * (4 * 128 * 128 + 3 * 128 * 344)
    assert (shape.head, shape.vocabulary, shape.blocks) == (1024 * 128, 1024, 4)
    assert (shape.attention, shape.largest, shape.whole_logits) == (4 * 128, 128 * 344, False)
    assert shape.trainable({x.name: 2 for x in shape.layers}) == 2 * sum(
        x.m + x.n for x in shape.layers
    )


def test_targets_choose_what_is_adapted_and_not_what_there_is() -> None:
    config = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4)
    whole = shape_of(outline(config, "x", None), "x")
    part = shape_of(outline(config, "x", None), "x", ("attention",))
    assert len(part.layers) < len(whole.layers)
    assert (part.parameters, part.linear) == (whole.parameters, whole.linear)
    with pytest.raises(ModelError, match='target "nothing" matches no layer'):
        shape_of(outline(config, "x", None), "x", ("nothing",))


def test_a_model_with_a_cap_on_its_logits() -> None:
    config = Gemma2Config(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    assert shape_of(outline(config, "x", None), "x").whole_logits
