"""Single weights of a layer, drawn by a seed that both ends know: where they lie, how they travel.

Source: the first stage of SLoRA (Babakniya et al., arXiv 2308.06522), a random mask of one density
in all layers. Here every rank has a mask of its own, as many weights as an adapter of that rank has
numbers, and the masks are nested: a lower rank's is the beginning of a higher one's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexlora.adapters.payload import FORMAT_VERSION, Payload
from flexlora.adapters.ranks import LayerSpec
from flexlora.errors import AdapterError, shown
from flexlora.seeds import seed_of, seeded

Values = Mapping[str, Tensor]
_SCHEMA = "sparse"


def weights_for(layer: LayerSpec, rank: int) -> int:
    """How many weights stand for this rank: (m + n) r, as its adapter has, or all m n of them.

    So the mask's density is the adapter's share of the layer.
    """
    return min((layer.m + layer.n) * rank, layer.m * layer.n)


def places(layer: LayerSpec, count: int, seed: int) -> Int[Tensor, " count"]:
    """The first `count` weights of this layer in the order of the seed, as flat places of (m, n).

    Any two weights are equally likely to come first; of no weight twice. The same on every machine
    that draws torch's CPU permutations, and for every count the beginning of that for a higher one.
    """
    order = torch.randperm(layer.m * layer.n, generator=seeded(seed_of(seed, layer.name)))
    return order[:count].clone()  # The rest of it is let go.


def spread(
    values: Float[Tensor, " count"], at: Int[Tensor, " count"], layer: LayerSpec
) -> Float[Tensor, "m n"]:
    """These values at these places, zero elsewhere."""
    return values.new_zeros(layer.m * layer.n).index_put_((at,), values).view(layer.m, layer.n)


def values_payload(values: Values) -> Payload:
    """Layer → its values in the order of their places, which whoever has the seed knows."""
    return Payload(_SCHEMA, dict(values))


def payload_values(payload: Payload, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Read them back, bit for bit: so many (layer → count) float32 values, all of them finite.

    Raises AdapterError for another schema or version, layers, counts, a dtype or values that are
    not.
    """
    if payload.schema != _SCHEMA or payload.version != FORMAT_VERSION:
        raise AdapterError(
            f"payload is {shown(payload.schema)} version {payload.version}; expected '{_SCHEMA}' "
            f"version {FORMAT_VERSION}"
        )
    odd = sorted(set(payload.tensors) ^ set(counts))
    if odd:
        raise AdapterError(
            f"payload has {len(payload.tensors)} layers, expected {len(counts)}; differing: "
            f"{shown(odd[0])}"
        )
    for name, count in counts.items():
        given = payload.tensors[name]
        if given.dtype != torch.float32 or given.shape != (count,):
            raise AdapterError(
                f"layer {name} has {tuple(given.shape)} values of {given.dtype}, expected "
                f"({count},) of torch.float32"
            )
        if not bool(given.isfinite().all()):
            raise AdapterError(f"layer {name} holds NaN or infinity, expected finite values")
    return {name: payload.tensors[name] for name in counts}
