"""What a federation will send and who will take part, known before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from flexlora.adapters import factors_payload
from flexlora.federation.setup import Setup
from flexlora.federation.streams import Streams
from flexlora.formats.payloads import to_bytes
from flexlora.rules import Rule


@dataclass(frozen=True)
class TypeForecast:
    """One client type. ranks: in words; smallest, median, largest: training examples of a client.

    bytes_down, bytes_up: the serialised factors of one client in one round, as `flexlora run`
    counts them in round 1. What a client lacks of Δ comes on top of bytes_down.
    """

    name: str
    ranks: str
    clients: int
    examples: int
    smallest: int
    median: float
    largest: int
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True)
class Forecast:
    """All types that clients have, and means over the cohorts that may be drawn.

    delta: whether the rule also sends Δ, whose bytes depend on what is learned and are in no number
    here. A rule that prunes may send less later.
    """

    types: tuple[TypeForecast, ...]
    clients_per_round: int
    rounds: int
    bytes_down_per_round: float
    bytes_up_per_round: float
    delta: bool
    prunes: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def forecast(setup: Setup, rule: Rule) -> Forecast:
    """Count what round 1 sends, type by type: exact, from the bytes themselves."""
    streams = Streams(setup.config.federation.seed)
    state = rule.init(setup.spec, streams.generator("init"))
    schedule = setup.schedule()
    types = []
    for name in setup.ranks:
        ranks = rule.ranks_for(setup.spec, setup.ranks[name])
        client = next(client for client, kind in setup.types.items() if kind == name)
        by_client = [client] if rule.traits.sends == "client" else []
        sent = rule.send(state, ranks, streams.generator("send", 1, *by_client), client)
        received = rule.receive(sent, {})
        sizes = [len(setup.train[client]) for client, kind in setup.types.items() if kind == name]
        types.append(
            TypeForecast(
                name=name,
                ranks=str(setup.mix.types[name]),
                clients=len(sizes),
                examples=sum(sizes),
                smallest=min(sizes),
                median=median(sizes),
                largest=max(sizes),
                bytes_down=len(to_bytes(factors_payload(sent))),
                bytes_up=len(
                    to_bytes(factors_payload(rule.reply(1, received, received, {}).adapter))
                ),
            )
        )
    down, up = (
        _mean([(t.clients, getattr(t, way)) for t in types]) * schedule.clients
        for way in ("bytes_down", "bytes_up")
    )
    return Forecast(
        types=tuple(types),
        clients_per_round=schedule.clients,
        rounds=schedule.rounds,
        bytes_down_per_round=down,
        bytes_up_per_round=up,
        delta=rule.traits.delta != "none",
        prunes=rule.traits.prunes,
    )


def _mean(weighted: Sequence[tuple[int, int]]) -> float:
    return sum(weight * value for weight, value in weighted) / sum(weight for weight, _ in weighted)
