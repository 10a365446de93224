"""What outlives a round per client, at the server: its ranks, and where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flexlora.formats.json_fields import items, texts
from flexlora.runs.fields import at_least

T = TypeVar("T")
_IF_THERE = ("answered", "failed", "resting")


@dataclass
class ClientStore:
    """Client id → type, ranks (layer → rank), and held version (None: it was never sent Δ).

    answered: the round that it answered last, where the rule has clients remember: what a client
    remembers of that round is what it goes on with, and it must be there.
    failed: failures in a row, of those who failed last; resting: the last round for which a client
    is not asked, since it failed again and again. within: ranks that were chosen by what they leave
    out of the state, at most its own, where they stand for some rounds.
    Clients of equal ranks may share one table of them: it is replaced, never changed.
    """

    types: dict[str, str]
    ranks: dict[str, dict[str, int]]
    held: dict[str, int] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    resting: dict[str, int] = field(default_factory=dict)
    within: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def clients(self) -> list[str]:
        return sorted(self.ranks)

    def to_json(self) -> dict[str, Any]:
        """Every name once: clients in order, then what each has, by numbers into what there is.

        {clients: ids, names: types that there are, types: a number a client, layouts: lists of
        layers, patterns: [number of its layout, rank, rank, …], ranks: a number of a pattern a
        client, held: a version or null a client; answered, failed, resting: a number or null a
        client, within: a number of a pattern or null a client, each left out where nobody has one}.
        """
        clients = list(self.ranks)
        names: dict[str, int] = {}
        layouts: dict[tuple[str, ...], int] = {}
        patterns: dict[tuple[int, ...], int] = {}
        seen: dict[int, int] = {}  # Tables that clients share are looked at once.

        def number(table: Mapping[str, int]) -> int:
            if id(table) not in seen:
                layout = layouts.setdefault(tuple(table), len(layouts))
                seen[id(table)] = patterns.setdefault((layout, *table.values()), len(patterns))
            return seen[id(table)]

        ranks = [number(self.ranks[client]) for client in clients]
        within = {client: number(table) for client, table in self.within.items()}
        types = [names.setdefault(self.types[client], len(names)) for client in clients]
        found = {name: getattr(self, name) for name in _IF_THERE}
        return {
            "clients": clients,
            "names": list(names),
            "types": types,
            "layouts": [list(layout) for layout in layouts],
            "patterns": [list(pattern) for pattern in patterns],
            "ranks": ranks,
            "held": [self.held.get(client) for client in clients],
            **{name: [of.get(x) for x in clients] for name, of in found.items() if of},
            **({"within": [within.get(x) for x in clients]} if within else {}),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ClientStore:
        """The store that `to_json` was asked of; clients of equal ranks share one table.

        Raises ValueError naming the entry for what it could not have given.
        """
        clients, names = texts(data, "clients"), texts(data, "names")
        layouts = [texts({"layouts": x}, "layouts") for x in items(data, "layouts")]
        made = [
            _table(layouts, items({"patterns": x}, "patterns")) for x in items(data, "patterns")
        ]
        if len(set(clients)) < len(clients):
            raise ValueError("clients has one of them twice")
        known = {x: _known(clients, data, x, least=1) for x in _IF_THERE if x in data}
        within = _each(clients, data, "within") if "within" in data else ()
        return ClientStore(
            {client: _at(names, i, "types") for client, i in _each(clients, data, "types")},
            {client: _at(made, i, "ranks") for client, i in _each(clients, data, "ranks")},
            _known(clients, data, "held"),
            **known,
            within={client: _at(made, i, "within") for client, i in within if i is not None},
        )


def _known(
    clients: Sequence[str], data: Mapping[str, Any], of: str, least: int = 0
) -> dict[str, int]:
    """Client → its number, of those that have one."""
    given = _each(clients, data, of)
    return {client: _number(one, of, least) for client, one in given if one is not None}


def _each(clients: Sequence[str], data: Mapping[str, Any], of: str) -> Iterator[tuple[str, Any]]:
    """(client, what it has of this), one each."""
    found = items(data, of)
    _require_as_many(of, found, clients, "clients")
    return zip(clients, found, strict=True)


def _table(layouts: Sequence[Sequence[str]], pattern: Sequence[Any]) -> dict[str, int]:
    if not pattern:
        raise ValueError("patterns has an empty one")
    layers = _at(layouts, pattern[0], "patterns")
    numbers = [_number(rank, "patterns", least=1) for rank in pattern[1:]]
    _require_as_many("one of patterns", numbers, layers, "layers")
    return dict(zip(layers, numbers, strict=True))


def _require_as_many(of: str, found: Sequence[Any], wanted: Sequence[Any], each: str) -> None:
    if len(found) != len(wanted):
        raise ValueError(f"{of} has {len(found)} entries for {len(wanted)} {each}")


def _at(values: Sequence[T], place: Any, of: str) -> T:
    number = _number(place, of)
    if number >= len(values):
        raise ValueError(f"{of} is {number}, expected less than {len(values)}")
    return values[number]


def _number(value: Any, of: str, least: int = 0) -> int:
    return at_least({of: value}, of, least)
