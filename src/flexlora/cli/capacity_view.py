"""What there is to remember, and what the adapters hold: whether rank can matter here."""

from __future__ import annotations

from flexlora.allocation.capacity import BITS_PER_PARAMETER
from flexlora.cli.console import say, screen
from flexlora.cli.sheets import Column, Sheet
from flexlora.federation.preview import Forecast, TypeForecast


def capacity_table(forecast: Forecast) -> None:
    """Bits of facts and of adapters by client type; nothing for data that is not recalled."""
    ceiling = forecast.ceiling
    if ceiling is None:
        return
    kinds = forecast.types
    Sheet(
        "bits to remember, and what an adapter holds",
        Column("type", [kind.name for kind in kinds], left=True),
        [
            Column("rank", [kind.ranks for kind in kinds]),
            Column("facts", [f"{kind.examples:,}" for kind in kinds]),
            Column("their bits", [f"{kind.bits or 0.0:,.0f}" for kind in kinds]),
            Column("a client's", [f"{_of_one(kind):,.0f}" for kind in kinds]),
            Column("trained", [f"{kind.parameters:,}" for kind in kinds]),
            Column("holds about", [f"{kind.capacity:,.0f}" for kind in kinds]),
            Column("of all", [f"{min(1.0, kind.capacity / ceiling):.0%}" for kind in kinds]),
        ],
    ).print(screen())
    say(
        f"ceiling: {ceiling:,.0f} bits; an adapter holds about {BITS_PER_PARAMETER} bits for each "
        f"parameter that a client trains. {_verdict(kinds, ceiling)}"
    )


def _of_one(kind: TypeForecast) -> float:
    return (kind.bits or 0.0) / kind.clients


def _verdict(kinds: tuple[TypeForecast, ...], ceiling: float) -> str:
    if all(kind.capacity >= ceiling for kind in kinds):
        return "Every rank holds all of it: rank can hardly matter here; raise data.facts"
    if any(kind.capacity < _of_one(kind) for kind in kinds):
        return "Some clients cannot even hold their own facts: rank matters much"
    return "Not every rank holds all of it: rank can matter"
