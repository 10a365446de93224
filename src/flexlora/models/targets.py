"""Which modules of a model are adapted, and the refusals by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from flexlora.adapters import LayerSpec
from flexlora.errors import ModelError, nearest
from flexlora.models.lora import linear_shape

ALL_LINEAR = "all-linear"
_STATE_SPACE = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}


def find_layers(model: nn.Module, name: str, targets: Sequence[str]) -> tuple[LayerSpec, ...]:
    """The targeted linear-like modules of `model`, by name.

    "all-linear" takes all but the output head. Any other target is a pattern of
    `LayerSpec.matches`: kind, last name, full name or glob. Norms and other small modules that a
    kind or a glob sweeps over are left alone; everything else that cannot be adapted is refused.

    Raises ModelError naming the target and what it met: no module, an embedding, a module that is
    not linear-like, an expert parameter (3-D weights of mixtures of experts), the tied head.
    """
    linear = _linear_layers(model)
    if not linear:
        raise ModelError(
            f"model {name} has no linear layers to adapt; give a transformer with nn.Linear layers"
        )
    if not targets:
        raise ModelError(f'targets is empty; give "{ALL_LINEAR}" or names of layers of {name}')
    head = output_head(model)
    chosen: dict[str, LayerSpec] = {}
    for target in targets:
        for layer in _matching(model, name, target, linear, head):
            chosen[layer.name] = layer
    return tuple(chosen[key] for key in sorted(chosen))


def linear_width(model: nn.Module) -> int:
    """Σ (m + n) over the linear-like modules but the output head: what a token passes through."""
    head = output_head(model)
    shapes = (linear_shape(module) for module in model.modules() if module is not head)
    return sum(sum(shape) for shape in shapes if shape is not None)


def _linear_layers(model: nn.Module) -> list[LayerSpec]:
    layers = []
    for name, module in model.named_modules():
        shape = linear_shape(module)
        if shape is not None:
            layers.append(LayerSpec(name, *shape))
    return layers


def _experts(model: nn.Module) -> list[LayerSpec]:
    """Weights of many experts in one 3-D parameter, by parameter name (shape of one expert)."""
    found = []
    for owner, module in model.named_modules():
        for name, parameter in module.named_parameters(owner, recurse=False):
            if parameter.ndim == 3 and not isinstance(module, _ConvNd):
                found.append(LayerSpec(name, *parameter.shape[1:]))
    return found


def _others(model: nn.Module) -> list[tuple[LayerSpec, nn.Module]]:
    """Modules and parameters that are not linear-like; the shape is of no use here."""
    found = []
    for name, module in model.named_modules():
        if linear_shape(module) is None and name:
            found.append((LayerSpec(name, 0, 0), module))
    return found


def _read_past(model: nn.Module, layer: LayerSpec) -> bool:
    """Whether kernels take this layer's weight itself: the list is that of PEFT's own check."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    return kind in _STATE_SPACE and layer.name.rpartition(".")[2] == "out_proj"


def _owns(module: nn.Module) -> bool:
    """True for a module with parameters of its own, not only of its children."""
    return next(module.parameters(recurse=False), None) is not None


def output_head(model: nn.Module) -> nn.Module | None:
    """What makes logits of hidden states, where the model says so."""
    getter: Any = getattr(model, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    if isinstance(head, nn.Module):
        return head
    fallback = getattr(model, "lm_head", None)
    return fallback if isinstance(fallback, nn.Module) else None


def _is_tied(model: nn.Module, head: nn.Module) -> bool:
    weight = getattr(head, "weight", None)
    return any(
        module is not head and parameter is weight
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    )


def _matching(
    model: nn.Module, name: str, target: str, linear: Sequence[LayerSpec], head: nn.Module | None
) -> list[LayerSpec]:
    experts = _experts(model)
    if target == ALL_LINEAR:
        if experts:
            raise ModelError(
                f'target "{ALL_LINEAR}" meets expert parameter {experts[0].name} of {name}, '
                "which has no linear module to adapt; name the layers in targets, "
                'such as "attention"'
            )
        kept = (x for x in linear if not _read_past(model, x))
        return [layer for layer in kept if model.get_submodule(layer.name) is not head]
    for expert in experts:
        owner = LayerSpec(expert.name.rpartition(".")[0], 0, 0)
        if expert.matches(target) or owner.matches(target):
            raise ModelError(
                f'target "{target}" matches expert parameter {expert.name} of {name}, which is '
                'not linear-like; name linear layers in targets, such as "attention"'
            )
    found = [layer for layer in linear if layer.matches(target)]
    past = next((layer for layer in found if _read_past(model, layer)), None)
    if past is not None:
        raise ModelError(
            f'target "{target}" matches {past.name} of {name}, whose weight state-space kernels '
            "read past any adapter, so that PEFT refuses it as well; leave it out of targets"
        )
    for other, module in _others(model):
        by_name = other.name == target or other.name.endswith("." + target)
        by_name = by_name and (not found or (target != other.kind and _owns(module)))
        by_glob = (
            target != other.kind and other.matches(target) and isinstance(module, nn.Embedding)
        )
        if by_name or by_glob:
            raise ModelError(
                f'target "{target}" matches {other.name} of {name}, which is '
                f"{type(module).__name__} and not linear-like; {_cure(target, linear)}"
            )
    for layer in found:
        if head is not None and model.get_submodule(layer.name) is head and _is_tied(model, head):
            raise ModelError(
                f'target "{target}" matches the output head {layer.name} of {name}, whose weight '
                f"is tied to the input embedding; leave it out of targets"
            )
    if not found:
        raise ModelError(f'target "{target}" matches no layer of {name}; {_cure(target, linear)}')
    return found


def _cure(target: str, linear: Sequence[LayerSpec]) -> str:
    known = {layer.name.rpartition(".")[2] for layer in linear} | {x.kind for x in linear}
    if "." in target:
        known = {layer.name for layer in linear}
    return nearest(target, known | {ALL_LINEAR})
