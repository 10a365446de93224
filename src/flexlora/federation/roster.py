"""Who trains at which rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flexlora.adapters import LayerSpec
from flexlora.allocation import Mix, draw
from flexlora.config.config import ClientsConfig
from flexlora.federation.streams import Streams
from flexlora.runs.store import ClientStore


@dataclass(frozen=True, eq=False)
class Roster:
    """mix: the types that there may be; types: client → type; ranks: type → (layer → rank).

    `ranks` holds the types that clients really have.
    """

    mix: Mix
    types: Mapping[str, str]
    ranks: Mapping[str, Mapping[str, int]]

    @staticmethod
    def of(
        asked: ClientsConfig, clients: Iterable[str], layers: Sequence[LayerSpec], streams: Streams
    ) -> Roster:
        """Draw every client's type. Raises ConfigError or RankError for a mix that does not fit."""
        mix = asked.build_mix()
        types = draw(mix, sorted(clients), streams.generator("types"))
        present = sorted(set(types.values()))
        return Roster(mix, types, {name: mix.types[name].resolve(layers) for name in present})

    def counts(self) -> dict[str, int]:
        """Type → how many clients are of it."""
        return {name: sum(kind == name for kind in self.types.values()) for name in self.ranks}

    def fresh_store(self) -> ClientStore:
        """What the server knows of its clients before round 1. One mapping for all of a type."""
        ranks = {name: dict(found) for name, found in self.ranks.items()}
        return ClientStore(
            dict(self.types), {client: ranks[kind] for client, kind in self.types.items()}
        )
