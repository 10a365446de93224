"""Activation checkpointing: a layer's activations are made anew in the backward pass, not kept."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from flexlora.errors import ModelError


def checkpoint_layers(model: nn.Module, name: str) -> None:
    """Keep only the inputs of the model's layers while it computes with gradients; in place.

    Losses and gradients stay what they are, dropout of adapters included. Without gradients
    nothing changes, nor with a KV cache, which a second pass would fill twice.
    Raises ModelError for a model whose layers transformers cannot checkpoint.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [x for x in model.modules() if isinstance(x, GradientCheckpointingLayer)]
    if not layers or not getattr(model, "supports_gradient_checkpointing", False):
        raise ModelError(
            f"model {name} is a {type(model).__name__}, which has no layers that can be "
            "checkpointed; set model.checkpointing to false"
        )
    for layer in layers:
        # Not transformers' own switch: that asks for training mode, in which the layers of some
        # models (OPT, Falcon) drop out by themselves.
        layer.forward = partial(_forward, layer)


def _forward(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    from transformers import Cache

    plain = partial(type(layer).forward, layer, **kwargs)
    cached = any(isinstance(x, Cache) for x in (*args, *kwargs.values()))
    if cached or not torch.is_grad_enabled():
        return plain(*args)
    # Dropout has seeds of its own, and the base draws nothing: no state of a generator to keep.
    return checkpoint(plain, *args, use_reentrant=False, preserve_rng_state=False)
