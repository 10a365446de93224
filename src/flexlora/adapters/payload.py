"""What crosses between server and client: named tensors with a schema and a format version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from flexlora.adapters.coarse import Wire, coarse, coarse_like, refined
from flexlora.adapters.factors import Adapter, Factors
from flexlora.errors import AdapterError, shown

FORMAT_VERSION = 1
Schema = str
_LARGEST = 1 << 30  # Of what a stranger may claim; the guard compares it with what was sent.


@dataclass(frozen=True, eq=False)
class Payload:
    """Named tensors + schema ("factors", …) + small text metadata + format version.

    Bytes on the wire are the length of its serialised form (`formats.payloads`), for every rule.
    """

    schema: Schema
    tensors: Mapping[str, Tensor]
    meta: Mapping[str, str] = field(default_factory=dict)
    version: int = FORMAT_VERSION


def factors_payload(adapter: Adapter) -> Payload:
    """An adapter as a payload: tensors `<layer>.b`, `<layer>.a`, scales as metadata.

    A side that is absent is left out: `<layer>.m` or `<layer>.n` among the metadata says how large
    it is.
    """
    tensors: dict[str, Tensor] = {}
    meta: dict[str, str] = {}
    for name, factors in adapter.items():
        if factors.sides == "a":
            meta[f"{name}.m"] = str(factors.shape[0])
        else:
            tensors[f"{name}.b"] = factors.b
        if factors.sides == "b":
            meta[f"{name}.n"] = str(factors.shape[1])
        else:
            tensors[f"{name}.a"] = factors.a
        meta[f"{name}.scale"] = repr(float(factors.scale))
    return Payload("factors", tensors, meta)


def coarse_payload(payload: Payload, wire: Wire, draw: torch.Generator) -> Payload:
    """An adapter's payload in fewer bits, as `coarse` has it; "exact": as it is."""
    tensors, meta = coarse(payload.tensors, wire, draw)
    return replace(payload, tensors=tensors, meta={**payload.meta, **meta})


def coarse_payload_like(payload: Payload, wire: Wire) -> Payload:
    """One of as many bytes as `coarse_payload`, without its numbers."""
    tensors, meta = coarse_like(payload.tensors, wire)
    return replace(payload, tensors=tensors, meta={**payload.meta, **meta})


def payload_adapter(payload: Payload) -> Adapter:
    """Read an adapter back from a payload, bit for bit; of a coarse one, what it stands for.

    Raises AdapterError for another schema or version, half of a pair that does not say how large
    the other half is, a scale that is missing, or a tensor that belongs to no pair.
    """
    if payload.schema != "factors" or payload.version != FORMAT_VERSION:
        raise AdapterError(
            f"payload is {shown(payload.schema)} version {payload.version}; "
            f"expected 'factors' version {FORMAT_VERSION}"
        )
    payload = replace(payload, tensors=refined(payload.tensors, payload.meta))
    for key in payload.tensors:
        if not key.endswith((".b", ".a")):
            raise AdapterError(
                f"payload tensor {shown(key)} is no factor; expected `<layer>.b` or `.a`"
            )
    names = {key[:-2] for key in payload.tensors}
    layers: dict[str, Factors] = {}
    for name in sorted(names):
        try:
            b, a = _pair(payload, name)
            scale = float(payload.meta[f"{name}.scale"])
        except (KeyError, ValueError) as error:
            raise AdapterError(
                f"payload layer {shown(name)} needs tensors b and a, or one of them and the size "
                "of the other, and a scale"
            ) from error
        try:
            layers[name] = Factors(b, a, scale)
        except AdapterError as error:
            raise AdapterError(f"payload layer {shown(name)}: {error}") from error
    return Adapter(layers)


def _pair(payload: Payload, name: str) -> tuple[Tensor, Tensor]:
    """(b, a), the absent one of them without numbers. KeyError or ValueError where half is lost."""
    b, a = payload.tensors.get(f"{name}.b"), payload.tensors.get(f"{name}.a")
    if b is not None and a is not None:
        return b, a
    held = b if a is None else a
    assert held is not None
    size = int(payload.meta[f"{name}.n" if a is None else f"{name}.m"])
    rank = held.shape[-1 if a is None else 0] if held.ndim == 2 else -1
    if not (0 <= rank <= _LARGEST and 1 <= size <= _LARGEST):
        raise ValueError(size)
    shape = (rank, size) if a is None else (size, rank)
    absent = torch.empty(shape, dtype=held.dtype, device="meta")
    return (held, absent) if a is None else (absent, held)
