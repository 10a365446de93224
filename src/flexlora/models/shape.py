"""Sizes of a model, read off its layers on no device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from flexlora.allocation.shape import ModelShape
from flexlora.models.linear_like import linear_shape
from flexlora.models.targets import find_layers, output_head

# Config keys of models that change their logits after the head.
_AFTER_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def shape_of(model: nn.Module, name: str, targets: Sequence[str] = ("all-linear",)) -> ModelShape:
    """Of a causal language model of transformers, perhaps without weights (see `outline`).

    Raises ModelError for targets that cannot be adapted.
    """
    layers = find_layers(model, name, targets)
    head = output_head(model)
    linear = [
        m * n
        for module in model.modules()
        if module is not head and (shape := linear_shape(module)) is not None
        for m, n in (shape,)
    ]
    owner: Any = model
    config: Any = owner.config.get_text_config()
    weight = getattr(head, "weight", None)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    changed = [getattr(config, key, None) for key in _AFTER_HEAD]
    return ModelShape(
        name=name,
        layers=layers,
        parameters=sum(p.numel() for p in model.parameters()),
        linear=sum(linear),
        head=weight.numel() if isinstance(weight, Tensor) else 0,
        largest=max(linear),
        vocabulary=int(config.vocab_size),
        blocks=int(config.num_hidden_layers),
        attention=int(config.num_hidden_layers * config.num_attention_heads * width),
        heads=int(config.num_hidden_layers * config.num_attention_heads),
        whole_logits=any(value not in (None, 1, 1.0) for value in changed),
    )
