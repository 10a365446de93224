"""A federation's state as tensors and JSON, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from flexlora.adapters import Delta, LayerSpec, Patch
from flexlora.lowrank import LowRank
from flexlora.rules import Spec, State

Tensors = dict[str, Tensor]


def pack(state: State) -> tuple[Tensors, dict[str, Any]]:
    """Tensors by path-like keys ("layer|NAME|KEY", "delta|NAME|left", "patch|V|NAME|left")."""
    tensors: Tensors = {}
    for name, layer in state.layers.items():
        for key, tensor in layer.items():
            tensors[f"layer|{name}|{key}"] = tensor
    _pack_layers(tensors, "delta", state.delta.layers)
    for patch in state.delta.patches:
        _pack_layers(tensors, f"patch|{patch.version}", patch.layers)
    meta = {
        "round": state.round,
        "spec": asdict(state.spec),
        "delta": state.delta.version,
        "patches": [patch.version for patch in state.delta.patches],
    }
    return tensors, meta


def unpack(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> State:
    """The state that `pack` was given."""
    spec = dict(meta["spec"])
    spec["layers"] = tuple(LayerSpec(**layer) for layer in spec["layers"])
    layers: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        kind, *rest = path.split("|")
        if kind == "layer":
            layers.setdefault(rest[0], {})[rest[1]] = tensor
    patches = tuple(
        Patch(version, _unpack_layers(tensors, f"patch|{version}")) for version in meta["patches"]
    )
    delta = Delta(meta["delta"], _unpack_layers(tensors, "delta"), patches)
    return State(Spec(**spec), meta["round"], layers, delta)


def _pack_layers(tensors: Tensors, prefix: str, layers: Mapping[str, LowRank]) -> None:
    for name, matrix in layers.items():
        # Copies: Δ may share memory with a layer's state, which a safetensors file cannot hold.
        tensors[f"{prefix}|{name}|left"] = matrix.left.clone()
        tensors[f"{prefix}|{name}|right"] = matrix.right.clone()


def _unpack_layers(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, LowRank]:
    start = f"{prefix}|"
    names = {
        path[len(start) : -len("|left")]
        for path in tensors
        if path.startswith(start) and path.endswith("|left")
    }
    return {
        name: LowRank(tensors[f"{start}{name}|left"], tensors[f"{start}{name}|right"])
        for name in sorted(names)
    }
