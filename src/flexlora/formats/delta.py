"""Δ as named tensors, wherever it travels or lies: to clients, to workers, in checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from flexlora.adapters import FORMAT_VERSION, DeltaUpdate, Payload
from flexlora.errors import AdapterError, shown
from flexlora.lowrank import Dense, LowRank

SCHEMA = "delta"
_VERSION = re.compile(r"0|[1-9][0-9]{0,17}")  # As `update_payload` writes it.


def layer_tensors(layers: Mapping[str, LowRank], prefix: str = "") -> dict[str, Tensor]:
    """`<prefix><layer>|left` and `|right` of every layer; `|whole` alone of a matrix that is held
    beside an identity, which need not travel."""
    tensors = {}
    for name, matrix in layers.items():
        if matrix.whole is not None:
            tensors[f"{prefix}{name}|whole"] = matrix.whole
        else:
            tensors[f"{prefix}{name}|left"] = matrix.left
            tensors[f"{prefix}{name}|right"] = matrix.right
    return tensors


def tensor_layers(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, LowRank]:
    """What `layer_tensors` was given under this prefix. Raises KeyError for half of a pair."""
    mine = {key[len(prefix) :]: key for key in tensors if key.startswith(prefix)}
    found = {}
    for name in {key.rpartition("|")[0] for key in mine}:
        if f"{name}|whole" in mine:
            found[name] = Dense(tensors[mine[f"{name}|whole"]]).low_rank()
        elif f"{name}|left" in mine:
            found[name] = LowRank(tensors[mine[f"{name}|left"]], tensors[mine[f"{name}|right"]])
    return dict(sorted(found.items()))


def update_payload(update: DeltaUpdate) -> Payload:
    """An update as it travels; its metadata say from which version to which, and how."""
    start = "" if update.start is None else str(update.start)
    return Payload(
        SCHEMA, layer_tensors(update.layers), {"version": str(update.version), "start": start}
    )


def payload_update(payload: Payload) -> DeltaUpdate:
    """Read it back, bit for bit. Raises AdapterError for anything else than `update_payload`."""
    if payload.schema != SCHEMA or payload.version != FORMAT_VERSION:
        raise AdapterError(
            f"payload is {shown(payload.schema)} version {payload.version}; "
            f"expected {SCHEMA!r} version {FORMAT_VERSION}"
        )
    tensors = payload.tensors
    try:
        version, start = _version(payload.meta["version"]), payload.meta["start"]
        held = _version(start) if start else None
        if held is not None and held >= version:
            raise ValueError(held, version)
        for key in tensors:
            if key.endswith("|left"):
                _require_pair(tensors[key], tensors[key.removesuffix("left") + "right"])
            elif key.endswith("|whole"):
                _require_matrix(tensors[key])
    except (KeyError, ValueError) as error:
        raise AdapterError(
            "payload of Δ is no update: it needs a version, an earlier one or none to start from, "
            "and left and right of every layer, of floats, that fit each other"
        ) from error
    layers = tensor_layers(tensors)
    if len(tensors) != sum(1 if f"{name}|whole" in tensors else 2 for name in layers):
        raise AdapterError(
            "payload of Δ holds tensors of no layer; expected left and right alone, or whole"
        )
    return DeltaUpdate(version, held, layers)


def _version(text: str) -> int:
    if _VERSION.fullmatch(text) is None:
        raise ValueError(text)
    return int(text)


def _require_pair(left: Tensor, right: Tensor) -> None:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        raise ValueError(left.shape, right.shape)
    if not (left.is_floating_point() and right.is_floating_point()):
        raise ValueError(left.dtype, right.dtype)


def _require_matrix(whole: Tensor) -> None:
    if whole.ndim != 2 or not whole.is_floating_point():
        raise ValueError(whole.shape, whole.dtype)
