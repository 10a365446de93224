"""A budget becomes ranks: as much of one order of rank increments as fits. Pure.

The order does not know the budget. What a larger budget pays for begins with all that a smaller one
pays for, so that more never gives less rank in any layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from flexlora.adapters import LayerSpec, Ranks
from flexlora.errors import ConfigError, seen

Step = Mapping[str, int]
"""Layer → by how much its rank grows."""

FFN_FIRST = Ranks.of({"attention": 30, "all": 200})
"""The proportion of the paper's type 3: 30 on attention to 200 on all else."""

_ANY = 10**9  # Sides of a layer that any rank fits.


@dataclass(frozen=True)
class Order:
    """Increments in order. The first gives every layer its first rank: nobody trains less."""

    steps: tuple[Step, ...]

    def ranks(self, steps: int) -> dict[str, int]:
        """Layer → rank after so many steps."""
        found: dict[str, int] = {}
        for step in self.steps[:steps]:
            for name, more in step.items():
                found[name] = found.get(name, 0) + more
        return found

    def after(self, ranks: Mapping[str, int]) -> dict[str, int] | None:
        """The next ranks in order; None after the last. ranks: those after some steps."""
        for steps in range(1, len(self.steps)):
            if self.ranks(steps) == ranks:
                return self.ranks(steps + 1)
        return None

    def largest(self, fits: Callable[[Mapping[str, int]], bool]) -> dict[str, int] | None:
        """The ranks of the longest beginning that fits; None where not even the first step does.

        fits: true for ranks that a budget pays for, and then for all smaller ones too.
        """
        if not fits(self.ranks(1)):
            return None
        low, high = 1, len(self.steps)
        while low < high:
            middle = (low + high + 1) // 2
            if fits(self.ranks(middle)):
                low = middle
            else:
                high = middle - 1
        return self.ranks(low)


def uniform(layers: Sequence[LayerSpec], most: int | None = None) -> Order:
    """All layers together, one rank a step, each up to its min(m, n). most: no rank above it."""
    return _proportional(layers, Ranks.of(1), most)


def in_proportion(
    layers: Sequence[LayerSpec], to: Ranks = FFN_FIRST, most: int | None = None
) -> Order:
    """The layers of the largest share take a rank a step, the others theirs in proportion.

    At the step at which the former reach their rank in `to`, all have theirs. most: of the largest
    share, the others in proportion. Raises RankError as `Ranks.resolve`.
    """
    return _proportional(layers, to, most)


def by_spectra(
    layers: Sequence[LayerSpec],
    spectra: Mapping[str, Sequence[float]],
    most: int | None = None,
) -> Order:
    """One rank of one layer a step, by the energy that it holds for its bytes: σ² / (m + n).

    spectra: layer → singular values of what was learned last. Past a spectrum, and where it is
    zero, layers go on in turn. Source: the water filling over layers of FedHera, for which bytes
    are as energy is bought. Raises ConfigError for a layer without a spectrum, and for a value that
    is negative or not finite.
    """
    wanted = []
    for place, layer in enumerate(layers):
        values = sorted(_spectrum(layer, spectra), reverse=True)
        for rank in range(2, _limit(layer, most) + 1):
            sigma = values[rank - 1] if rank <= len(values) else 0.0
            wanted.append((-(sigma**2) / (layer.m + layer.n), rank, place, layer.name))
    first = {layer.name: 1 for layer in layers}
    return Order((first, *({name: 1} for *_, name in sorted(wanted))))


def within_error(
    layers: Sequence[LayerSpec],
    spectra: Mapping[str, Sequence[float]],
    own: Mapping[str, int],
    share: float,
) -> tuple[dict[str, int], float]:
    """The first ranks in the order of `by_spectra` that leave at most this share of Σ σ² out, no
    layer above its own rank; and ‖what they leave out‖_F, of a best approximation of these ranks.

    Where even the own ranks leave more out, it is those; where there is no energy, too: nothing is
    known yet. Raises ConfigError as `by_spectra`.
    """
    values = {x.name: sorted(_spectrum(x, spectra), reverse=True) for x in layers}
    total = sum(sigma**2 for held in values.values() for sigma in held)
    if total == 0.0:
        return dict(own), 0.0
    ranks = dict.fromkeys(own, 1)
    left = total - sum(held[0] ** 2 for held in values.values() if held)
    for step in by_spectra(layers, spectra, max(own.values())).steps[1:]:
        if left <= share * total:
            break
        (name,) = step
        if ranks[name] < own[name]:
            place = ranks[name]
            ranks[name] += 1
            left -= values[name][place] ** 2 if place < len(values[name]) else 0.0
    return ranks, error_beyond(values, ranks)


def error_beyond(spectra: Mapping[str, Sequence[float]], ranks: Mapping[str, int]) -> float:
    """‖what a best approximation of these ranks leaves out‖_F, over all layers."""
    return math.hypot(
        *(x for name, held in spectra.items() for x in sorted(held, reverse=True)[ranks[name] :])
    )


def _spectrum(layer: LayerSpec, spectra: Mapping[str, Sequence[float]]) -> list[float]:
    if layer.name not in spectra:
        raise ConfigError(
            f"layer {seen(layer.name)} has no spectrum; give one for each adapted layer"
        )
    values = [float(x) for x in spectra[layer.name]]
    for value in values:
        if not 0.0 <= value < float("inf"):
            raise ConfigError(
                f"the spectrum of layer {seen(layer.name)} holds {value}; give finite numbers of 0 "
                "or more"
            )
    return values


def _proportional(layers: Sequence[LayerSpec], to: Ranks, most: int | None) -> Order:
    # As asked for, whatever a small layer can hold of it: the proportion is that of the ranks.
    shares = to.resolve([LayerSpec(x.name, _ANY, _ANY) for x in layers])
    highest = max(shares.values())
    limits = {
        x.name: x.largest_rank
        if most is None
        else min(x.largest_rank, max(1, most * shares[x.name] // highest))
        for x in layers
    }

    def grown() -> Iterator[Step]:
        held = dict.fromkeys(shares, 0)
        for step in count(1):
            wanted = {
                name: min(limits[name], max(1, step * share // highest))
                for name, share in shares.items()
            }
            more = {x: wanted[x] - held[x] for x in wanted if wanted[x] > held[x]}
            if more:
                yield more
            if wanted == limits:
                return
            held = wanted

    return Order(tuple(grown()))


def _limit(layer: LayerSpec, most: int | None) -> int:
    return layer.largest_rank if most is None else min(most, layer.largest_rank)
