"""Δ_v: what the federation has already put into the base model, versioned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flexlora.errors import AdapterError
from flexlora.lowrank import LowRank

Layers = Mapping[str, LowRank]


@dataclass(frozen=True, eq=False)
class Patch:
    """What was added to Δ on the way from `version - 1` to `version`, layer by layer."""

    version: int
    layers: Layers

    @property
    def nbytes(self) -> int:
        return sum(map(_bytes, self.layers.values()))


@dataclass(frozen=True, eq=False)
class DeltaUpdate:
    """What brings a holder of Δ to `version`.

    start: the version to which `layers` are to be added; None: they stand in place of whatever is
    held.
    """

    version: int
    start: int | None
    layers: Layers


@dataclass(frozen=True, eq=False)
class Delta:
    """Cumulative against the PRISTINE base W₀, the same for all clients. Version 0 is empty.

    `patches` are the last steps, kept while together they are smaller than Δ itself: a client that
    holds version u needs the patches above u, or all of Δ, whichever is fewer bytes (`since`).
    """

    version: int = 0
    layers: Layers = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(map(_bytes, self.layers.values()))

    def advanced(self, layers: Layers, patch: Layers | None) -> Delta:
        """Δ_{v+1} = `layers`; `patch` is what was added to come there, None if that is no sum.

        Without a patch older versions become unreachable: every client is sent Δ whole.
        """
        version = self.version + 1
        if patch is None:
            return Delta(version, dict(layers))
        return _trimmed(Delta(version, dict(layers), (*self.patches, Patch(version, dict(patch)))))

    def since(self, held: int | None) -> DeltaUpdate | None:
        """What a client that holds version `held` (None: nothing) must be sent, in fewest bytes.

        None where it lacks nothing.
        """
        if held == self.version or not self.layers:
            return None
        missing = [patch for patch in self.patches if held is not None and patch.version > held]
        reachable = held is not None and len(missing) == self.version - held
        if not reachable or sum(patch.nbytes for patch in missing) >= self.nbytes:
            return DeltaUpdate(self.version, None, self.layers)
        return DeltaUpdate(self.version, held, _joined(patch.layers for patch in missing))

    def updated(self, update: DeltaUpdate) -> Delta:
        """The client's half of `since`: Δ as whoever holds this one has it after the update.

        Equal to the server's Δ; bit for bit where the update stands in place, else within rounding.
        Raises AdapterError for an update that is to be added to another version.
        """
        if update.start is None:
            return Delta(update.version, dict(update.layers))
        if update.start != self.version:
            raise AdapterError(
                f"an update of Δ from version {update.start} came to one that holds version "
                f"{self.version}; ask for all of it"
            )
        return Delta(update.version, _joined((self.layers, update.layers)))


def _bytes(part: LowRank) -> int:
    """As it travels: of a matrix beside an identity, the matrix alone."""
    return part.nbytes if part.whole is None else part.whole.nbytes


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


def _joined(parts: Iterable[Layers]) -> dict[str, LowRank]:
    """Layer by layer the sum, side by side: exact, and nothing is multiplied out."""
    total: dict[str, LowRank] = {}
    for layers in parts:
        for name, matrix in layers.items():
            total[name] = total[name] + matrix if name in total else matrix
    return total
