"""Who trains at which rank."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from flexlora.adapters import LayerSpec, Ranks
from flexlora.allocation import draw, require_rank
from flexlora.config.clients import ClientsConfig, type_of
from flexlora.errors import ConfigError, DataError, nearest, seen, shown
from flexlora.federation.fleet import Fleet
from flexlora.federation.streams import Streams
from flexlora.runs.store import ClientStore

Level = Literal["own", "lowest", "highest"]

_DIGITS = 20  # Of a rank that the data says; longer ones are no rank.


@dataclass(frozen=True, eq=False)
class Roster:
    """types: client → type; ranks: type → (layer → rank), of the types that clients really have.

    notes: where a type affords more than a layer has, in a sentence.
    """

    types: Mapping[str, str]
    ranks: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...]

    @staticmethod
    def of(
        asked: ClientsConfig,
        clients: Collection[str],
        layers: Sequence[LayerSpec],
        streams: Streams,
        *,
        said: Mapping[str, str] | None = None,
        before: Mapping[str, str] | None = None,
    ) -> Roster:
        """Every client's type: by its name in [clients.ranks], else as the data says, else as it
        was before where the mix still has that type, else drawn.

        said: client → its type, or a whole number, its rank. Raises ConfigError, DataError or
        RankError for what does not fit.
        """
        mix = asked.build_mix()
        kept = {name: kind for name, kind in (before or {}).items() if kind in mix.shares}
        known = {**kept, **_said(asked, said or {}), **_named(asked, clients)}
        types = draw(mix, sorted(clients), streams.generator("types"), known)
        ranks, above = {}, []
        for kind in sorted(set(types.values())):
            found = asked.ranks_of(kind)
            assert found is not None
            ranks[kind] = found.resolve(layers, clip=not asked.strict)
            above += _above(kind, found, layers)
        spare = [x for x in asked.types if x not in mix.shares and x not in ranks]
        return Roster(types, ranks, (*_note(above), *_spare(spare)))

    @staticmethod
    def on(
        fleet: Fleet,
        asked: ClientsConfig,
        clients: Collection[str],
        layers: Sequence[LayerSpec],
        streams: Streams,
        *,
        said: Mapping[str, str] | None = None,
    ) -> Roster:
        """Of clients with devices: each trains at its class's ranks, but for those with ranks of
        their own, by name or in the data; those without a device are drawn from the mix."""
        own = own_ranks(asked, clients, said or {}, fleet.classes)
        types = {**fleet.of, **own}
        if len(types) < len(clients):
            names, drawing = sorted(clients), streams.generator("types")
            types = draw(asked.build_mix(), names, drawing, types)
        ranks, above = {}, []
        for kind in sorted(set(types.values())):
            if kind in fleet.afforded:
                ranks[kind] = fleet.afforded[kind].resolve(layers, clip=True)
                continue
            found = asked.ranks_of(kind)
            assert found is not None
            ranks[kind] = found.resolve(layers, clip=not asked.strict)
            above += _above(kind, found, layers)
        return Roster(types, ranks, (*_note(above), *fleet.notes))

    def at_level(self, level: Level, layers: Sequence[LayerSpec]) -> Roster:
        """With every type at its own ranks, or all at the lowest or highest that any has."""
        if level == "own":
            return self
        choose = min if level == "lowest" else max
        ranks = {x.name: choose(found[x.name] for found in self.ranks.values()) for x in layers}
        return replace(self, ranks={name: dict(ranks) for name in self.ranks})

    def counts(self) -> dict[str, int]:
        """Type → how many clients are of it."""
        return {name: sum(kind == name for kind in self.types.values()) for name in self.ranks}

    def fresh_store(self) -> ClientStore:
        """What the server knows of its clients before round 1. One mapping for all of a type."""
        ranks = {name: dict(found) for name, found in self.ranks.items()}
        return ClientStore(
            dict(self.types), {client: ranks[kind] for client, kind in self.types.items()}
        )


def _named(asked: ClientsConfig, clients: Collection[str]) -> dict[str, str]:
    named = asked.named()
    for client in named:
        if client not in clients:
            raise ConfigError(
                f"clients.ranks has {shown(client)}, and no client that trains has that name; "
                f"{nearest(client, clients)}"
            )
    return named


def own_ranks(
    asked: ClientsConfig,
    clients: Collection[str],
    said: Mapping[str, str],
    classes: Collection[str],
) -> dict[str, str]:
    """Client → type, of those with ranks of their own beside a fleet of these classes.

    Raises ConfigError and DataError for names and words that there are not.
    """
    ranked = {client: word for client, word in said.items() if word not in classes}
    for client, word in ranked.items():
        if not (word.isdecimal() and len(word) < _DIGITS):
            raise DataError(
                f"client {shown(client)} has the device {shown(word)} in the data; "
                f"{nearest(word, classes)}"
            )
    return {**_said(asked, ranked), **_named(asked, clients)}


def _said(asked: ClientsConfig, said: Mapping[str, str]) -> dict[str, str]:
    """Client → type, of what the data says; a whole number is the type of that rank."""
    types = {}
    for client, word in said.items():
        if word.isdecimal() and len(word) < _DIGITS:
            require_rank(int(word), f"of client {shown(client)} in the data")
            word = type_of(int(word))
        if asked.ranks_of(word) is None:
            raise DataError(
                f"client {shown(client)} is of type {shown(word)} in the data; "
                f"{nearest(word, asked.all_types())}, or name it in [clients.types]"
            )
        types[client] = word
    return types


def _above(kind: str, ranks: Ranks, layers: Sequence[LayerSpec]) -> list[str]:
    narrow = ranks.too_wide(layers)
    return [f"{kind} ({ranks}) in {len(narrow)} of {len(layers)} layers"] if narrow else []


def _spare(types: Sequence[str]) -> tuple[str, ...]:
    if not types:
        return ()
    named = ", ".join(map(seen, types))
    return (f"of clients.types nobody is {named}: neither clients.mix nor the data names it",)


def _note(above: Sequence[str]) -> tuple[str, ...]:
    if not above:
        return ()
    return (
        f"ranks above min(m, n) of a layer are cut to that: {'; '.join(above)}; clients.strict = "
        "true refuses them",
    )
