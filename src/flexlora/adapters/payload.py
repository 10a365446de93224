"""What crosses between server and client: named tensors with a schema and a format version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from flexlora.adapters.factors import Adapter, Factors
from flexlora.errors import AdapterError

FORMAT_VERSION = 1
Schema = str


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
    """An adapter as a payload: tensors `<layer>.b`, `<layer>.a`, scales as metadata."""
    tensors: dict[str, Tensor] = {}
    meta: dict[str, str] = {}
    for name, factors in adapter.items():
        tensors[f"{name}.b"] = factors.b
        tensors[f"{name}.a"] = factors.a
        meta[f"{name}.scale"] = repr(float(factors.scale))
    return Payload("factors", tensors, meta)


def payload_adapter(payload: Payload) -> Adapter:
    """Read an adapter back from a payload, bit for bit.

    Raises AdapterError for another schema or version, half of a pair, a scale that is missing, or
    a tensor that belongs to no pair.
    """
    if payload.schema != "factors" or payload.version != FORMAT_VERSION:
        raise AdapterError(
            f"payload is {payload.schema} version {payload.version}; "
            f"expected factors version {FORMAT_VERSION}"
        )
    for key in payload.tensors:
        if not key.endswith((".b", ".a")):
            raise AdapterError(f"payload tensor {key} is no factor; expected `<layer>.b` or `.a`")
    names = {key[:-2] for key in payload.tensors}
    layers: dict[str, Factors] = {}
    for name in names:
        try:
            b, a = payload.tensors[f"{name}.b"], payload.tensors[f"{name}.a"]
            scale = float(payload.meta[f"{name}.scale"])
        except (KeyError, ValueError) as error:
            raise AdapterError(
                f"payload layer {name} is incomplete: needs tensors b and a and a scale"
            ) from error
        layers[name] = Factors(b, a, scale)
    return Adapter(layers)
