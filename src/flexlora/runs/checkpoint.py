"""A federation's state as tensors and JSON, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import Tensor

from flexlora.adapters import Delta, LayerSpec, Patch
from flexlora.formats.delta import layer_tensors, tensor_layers
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
    """The state that `pack` was given. Its layers are fetched from `tensors` as they are used."""
    spec = dict(meta["spec"])
    spec["layers"] = tuple(LayerSpec(**layer) for layer in spec["layers"])
    patches = tuple(
        Patch(version, tensor_layers(tensors, f"patch|{version}|")) for version in meta["patches"]
    )
    delta = Delta(meta["delta"], tensor_layers(tensors, "delta|"), patches)
    return State(Spec(**spec), meta["round"], unpack_layers(tensors), delta)


def unpack_layers(tensors: Mapping[str, Tensor]) -> dict[str, LayerState]:
    """Layer name → its state, out of the tensors of `pack`; nothing is fetched yet."""
    layers: dict[str, dict[str, Callable[[], Tensor]]] = {}
    for path in tensors:
        kind, *rest = path.split("|")
        if kind == "layer":
            layers.setdefault(rest[0], {})[rest[1]] = partial(tensors.__getitem__, path)
    return {name: Tensors(layer) for name, layer in layers.items()}


def _same(tensor: Tensor) -> Tensor:
    return tensor
