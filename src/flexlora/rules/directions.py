"""Which directions of what was learned a client is sent to train."""

from __future__ import annotations

from typing import Literal

import torch

from flexlora.adapters import Factors, factors_of
from flexlora.lowrank import Spectrum, Split
from flexlora.rules.layer import ClientView, Layer, LayerState
from flexlora.rules.spectral import fresh_rows

# top: the largest; drawn: by singular value, anew each round; half: the upper half of a client's
# rank, the rest new; fresh: new ones alone.
Directions = Literal["top", "drawn", "half", "fresh"]


def sent_directions(
    layer: Layer,
    state: LayerState,
    client: ClientView,
    learned: Spectrum,
    how: Directions,
    split: Split,
) -> Factors:
    """`rank` of them: of what was learned, then rows of A with B = 0, which leave the product.

    Those rows are the state's "fresh" where they only fill up, else drawn anew each round, at full
    height and cut, so that clients of all ranks share the first.
    """
    rank, fill = client.rank(layer), state["fresh"]
    if how in ("half", "fresh"):
        fill = fresh_rows(fill.shape[0], layer.n, layer.generator)
    chosen = _chosen(learned, rank, how, layer.generator)
    return factors_of(chosen, rank, layer.scale(rank), fill=fill, split=split)


def _chosen(learned: Spectrum, rank: int, how: Directions, generator: torch.Generator) -> Spectrum:
    if how == "drawn" and learned.rank > rank:
        drawn = torch.multinomial(learned.s, rank, generator=generator).sort().values
        return Spectrum(learned.u[:, drawn], learned.s[drawn], learned.vh[drawn])
    kept = {"half": rank // 2, "fresh": 0}.get(how, rank)
    return learned.truncate(kept).kept
