"""A federation's state as tensors and JSON, and back, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, get_args

from torch import Tensor

from flexlora.adapters import Delta, LayerSpec, Patch, Scaling
from flexlora.errors import shown
from flexlora.formats.delta import layer_tensors, tensor_layers
from flexlora.formats.json_fields import counts, items, number, table, tables, text, whole
from flexlora.formats.payloads import Tensors
from flexlora.rules import LayerState, Spec, State


def pack(state: State) -> tuple[Tensors, dict[str, Any]]:
    """Tensors by path-like keys ("layer|NAME|KEY", "delta|NAME|left", "patch|V|NAME|left").

    They are fetched from the state when they are asked for.
    """
    tensors: dict[str, Callable[[], Tensor]] = {}
    for name, layer in state.layers.items():
        for key in layer:
            tensors[f"layer|{name}|{key}"] = partial(layer.__getitem__, key)
    held = layer_tensors(state.delta.layers, "delta|")
    for patch in state.delta.patches:
        held |= layer_tensors(patch.layers, f"patch|{patch.version}|")
    for path, tensor in held.items():
        tensors[path] = partial(_same, tensor)
    meta = {
        "round": state.round,
        "spec": asdict(state.spec),
        "delta": state.delta.version,
        "patches": [patch.version for patch in state.delta.patches],
    }
    return Tensors(tensors), meta


def unpack(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> State:
    """The state that `pack` was given. Its layers are fetched from `tensors` as they are used.

    Raises ValueError where they are not of one state, naming what is wrong.
    """
    spec = _spec(table(meta, "spec"))
    versions = [whole({"patches": version}, "patches") for version in items(meta, "patches")]
    patches = tuple(
        Patch(version, tensor_layers(tensors, f"patch|{version}|")) for version in versions
    )
    delta = Delta(whole(meta, "delta"), tensor_layers(tensors, "delta|"), patches)
    layers = unpack_layers(tensors)
    if layers.keys() != spec.highest.keys():
        odd = min(layers.keys() ^ spec.highest.keys())
        raise ValueError(f"layer {shown(odd)} is in the state or in its spec alone")
    shapes = {layer.name: (layer.m, layer.n) for layer in spec.layers}
    for held in (delta.layers, *(patch.layers for patch in patches)):
        for name, matrix in held.items():
            if shapes.get(name) != matrix.shape:
                raise ValueError(f"Δ of layer {shown(name)} has shape {matrix.shape}")
    return State(spec, whole(meta, "round"), layers, delta)


def _spec(record: Mapping[str, Any]) -> Spec:
    layers = tuple(
        LayerSpec(text(layer, "name"), whole(layer, "m"), whole(layer, "n"))
        for layer in tables(record, "layers")
    )
    highest, lowest = counts(record, "highest"), counts(record, "lowest")
    if not {layer.name for layer in layers} == highest.keys() == lowest.keys():
        raise ValueError("layers, highest and lowest are not of the same layers")
    for layer in layers:
        low, high = lowest[layer.name], highest[layer.name]
        if not 1 <= low <= high <= min(layer.m, layer.n):
            raise ValueError(f"layer {shown(layer.name)} has ranks from {low} to {high}")
    if len(layers) > len(highest):
        raise ValueError("layers has one of them twice")
    alpha, scaling = number(record, "alpha"), text(record, "scaling")
    if not 0.0 < alpha < math.inf:
        raise ValueError(f"alpha is {alpha}")
    for known in get_args(Scaling):
        if scaling == known:
            return Spec(layers, highest, lowest, alpha, known)
    raise ValueError(f"scaling is {shown(scaling)}")


def unpack_layers(tensors: Mapping[str, Tensor]) -> dict[str, LayerState]:
    """Layer name → its state, out of the tensors of `pack`; nothing is fetched yet."""
    layers: dict[str, dict[str, Callable[[], Tensor]]] = {}
    for path in tensors:
        kind, *rest = path.split("|")
        if kind == "layer" and len(rest) == 2:
            layers.setdefault(rest[0], {})[rest[1]] = partial(tensors.__getitem__, path)
    return {name: Tensors(layer) for name, layer in layers.items()}


def _same(tensor: Tensor) -> Tensor:
    return tensor
