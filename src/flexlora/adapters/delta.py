"""Δ_v: what the federation has already put into the base model, versioned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flexlora.lowrank import LowRank

Layers = Mapping[str, LowRank]


@dataclass(frozen=True, eq=False)
class Patch:
    """What was added to Δ on the way from `version - 1` to `version`, layer by layer."""

    version: int
    layers: Layers

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.layers.values())


@dataclass(frozen=True, eq=False)
class Delta:
    """Cumulative against the PRISTINE base W₀, the same for all clients. Version 0 is empty.

    `patches` are the last steps, kept while together they are smaller than Δ itself: a client that
    holds version u needs the patches above u, or all of Δ, whichever is fewer bytes.
    """

    version: int = 0
    layers: Layers = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.layers.values())

    def advanced(self, layers: Layers, patch: Layers | None) -> Delta:
        """Δ_{v+1} = `layers`; `patch` is what was added to come there, None if that is no sum.

        Without a patch older versions become unreachable: every client is sent Δ whole.
        """
        version = self.version + 1
        if patch is None:
            return Delta(version, dict(layers))
        return _trimmed(Delta(version, dict(layers), (*self.patches, Patch(version, dict(patch)))))

    def since(self, held: int | None) -> tuple[Layers, ...]:
        """What a client that holds version `held` (None: nothing) must be sent, smallest form.

        The sum of the returned parts is to be added to what the client holds; for a client that
        is sent Δ whole (`held` None or too old) it stands in place of it.
        """
        if held == self.version or not self.layers:
            return ()
        missing = [patch for patch in self.patches if held is not None and patch.version > held]
        if held is None or len(missing) != self.version - held:
            return (self.layers,)
        if sum(patch.nbytes for patch in missing) >= self.nbytes:
            return (self.layers,)
        return tuple(patch.layers for patch in missing)


def _trimmed(delta: Delta) -> Delta:
    """Drop the oldest patches once all kept together weigh as much as Δ itself."""
    kept: list[Patch] = []
    total = 0
    for patch in reversed(delta.patches):
        total += patch.nbytes
        if total >= delta.nbytes:
            break
        kept.insert(0, patch)
    return Delta(delta.version, delta.layers, tuple(kept))
