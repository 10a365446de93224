"""What a federation will send and who will take part, known before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch

from flexlora.adapters import Adapter, Wire, coarse_payload, factors_payload
from flexlora.allocation.capacity import capacity_bits
from flexlora.config.schedule import validations
from flexlora.evaluation.metrics import chance_bits
from flexlora.federation.foreseen import Peaks, peaks
from flexlora.federation.sending import Sender
from flexlora.federation.setup import Setup
from flexlora.federation.sparse_stage import sparse_stage
from flexlora.formats.payloads import to_bytes
from flexlora.planning.traffic import ROUNDS
from flexlora.rules import Rule
from flexlora.rules.promises import require_received
from flexlora.runs.run_directory import Record


@dataclass(frozen=True, eq=False)
class Preview:
    """setup: perhaps without the model's weights; forecast: of what is sent; parent: what the run
    would begin from, as in parent.json, None for the bare base; rule: under which.
    """

    setup: Setup
    forecast: Forecast
    parent: Record | None
    rule: Rule

    @cached_property
    def memory(self) -> Peaks:
        """Of training, by client type; found when it is asked for, which takes seconds."""
        return peaks(self.setup, self.rule)


@dataclass(frozen=True)
class TypeForecast:
    """One client type. ranks: those that it trains at, in words.

    smallest, median, largest: training examples of a client.
    bytes_down, bytes_up: the serialised factors of one client in one round, as `flexlora run`
    counts them in round 1; bytes_up_next: in round 2, where a rule returns the other side. What a
    client lacks of Δ comes on top of bytes_down.
    parameters: what one client trains in round 1. bits: what the digits come to that its clients
    are to remember (`metrics.chance_bits`); None where data is not for remembering.
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
    bytes_up_next: int
    parameters: int
    bits: float | None

    @property
    def capacity(self) -> float:
        """Bits that one adapter of this type may store, in round numbers."""
        return capacity_bits(self.parameters)


@dataclass(frozen=True)
class SparseForecast:
    """The rounds before adapters are trained, in which single weights are.

    bytes_down: of one client in one round, alike for all; bytes_up: of one, by type; per round:
    means over the cohorts that may be drawn.
    """

    rounds: int
    bytes_down: int
    bytes_up: Mapping[str, int]
    bytes_down_per_round: float
    bytes_up_per_round: float


@dataclass(frozen=True)
class Forecast:
    """All types that clients have, and means over the cohorts that may be drawn.

    delta: whether the rule also sends Δ, whose bytes depend on what is learned and are in no number
    here. A rule that prunes may send less later. rounds: all there are; where the first ones are
    sparse, what those send stands in `sparse`, and all else is of the rounds after them.
    bytes_up_per_round: of rounds 1 and 2, between which rules that train one side at a time change.
    bytes_evaluating: what clients are sent to score, in all validated rounds together.
    """

    types: tuple[TypeForecast, ...]
    clients_per_round: int
    rounds: int
    bytes_down_per_round: float
    bytes_up_per_round: tuple[float, float]
    bytes_evaluating: float
    delta: bool
    prunes: bool
    sparse: SparseForecast | None = None

    @property
    def mean_bytes_up(self) -> float:
        """Of a round."""
        return sum(self.bytes_up_per_round) / 2

    @property
    def total_bytes(self) -> float:
        """Of all rounds, both ways, what clients are sent to score included."""
        first, total = 0, self.bytes_evaluating
        if self.sparse is not None:
            first = self.sparse.rounds
            total += first * (self.sparse.bytes_down_per_round + self.sparse.bytes_up_per_round)
        odd, even = self.bytes_up_per_round
        total += self.bytes_down_per_round * (self.rounds - first)
        total += odd * ((self.rounds + 1) // 2 - (first + 1) // 2)
        return total + even * (self.rounds // 2 - first // 2)

    @property
    def ceiling(self) -> float | None:
        """Bits that all clients together are to remember; None where that is not the question."""
        bits = [kind.bits for kind in self.types if kind.bits is not None]
        return sum(bits) if bits else None

    def to_json(self) -> dict[str, Any]:
        types = [{**asdict(kind), "capacity": kind.capacity} for kind in self.types]
        more = {"total_bytes": self.total_bytes, "ceiling": self.ceiling}
        return {**asdict(self), "types": types, **more}


def forecast(setup: Setup, rule: Rule, sparse_rounds: int = 0) -> Forecast:
    """Count what the first round sends, type by type: exact, from the bytes themselves.

    sparse_rounds: those before adapters are trained, counted alike.
    """
    schedule, roster = setup.settings.schedule, setup.roster
    sender = Sender(rule, schedule, setup.streams)
    members = {
        name: [client for client, kind in roster.types.items() if kind == name]
        for name in roster.ranks
    }
    one_each = [clients[0] for clients in members.values()]
    sending = sender.training(sender.begin(setup.spec), roster.fresh_store(), one_each)
    words = setup.trained_ranks(rule)
    types = []
    for job, (name, clients) in zip(sending.jobs, members.items(), strict=True):
        sent = sending.sent[job.client]
        received = require_received(rule, rule.receive(sent, {}), sent, job.client)
        held = [setup.examples.train[client] for client in clients]
        sizes = list(map(len, held))
        types.append(
            TypeForecast(
                name=name,
                ranks=words[name],
                clients=len(sizes),
                examples=sum(sizes),
                smallest=min(sizes),
                median=median(sizes),
                largest=max(sizes),
                bytes_down=job.bytes_down,
                bytes_up=_reply_bytes(rule, received, schedule.wire, ROUNDS[0]),
                bytes_up_next=_reply_bytes(rule, received, schedule.wire, ROUNDS[1]),
                parameters=received.only(job.sides).parameters,
                bits=sum(chance_bits(x.references[0]) for part in held for x in part)
                if setup.examples.recalled
                else None,
            )
        )
    asked = schedule.asks(len(roster.types))
    down, up, then = (
        _mean([(t.clients, getattr(t, way)) for t in types]) * asked
        for way in ("bytes_down", "bytes_up", "bytes_up_next")
    )
    return Forecast(
        types=tuple(types),
        clients_per_round=schedule.clients,
        rounds=schedule.rounds,
        bytes_down_per_round=down,
        bytes_up_per_round=(up, then),
        bytes_evaluating=_evaluating(setup, sender, members),
        delta=rule.traits.delta != "none",
        prunes=rule.traits.prunes,
        sparse=_sparse(setup, sender, sparse_rounds, members),
    )


def _sparse(
    setup: Setup, sender: Sender, rounds: int, members: Mapping[str, Sequence[str]]
) -> SparseForecast | None:
    stage = sparse_stage(sender, rounds, Path())  # Nothing is collected, so nothing is written.
    if stage is None:
        return None
    begun = stage.begin(sender.begin(setup.spec))
    one_each = [clients[0] for clients in members.values()]
    jobs = stage.send(begun, setup.roster.fresh_store(), clients=one_each).jobs
    up = {name: stage.reply_bytes(job) for name, job in zip(members, jobs, strict=True)}
    mean = _mean([(len(clients), up[name]) for name, clients in members.items()])
    count, down = sender.schedule.asks(sum(map(len, members.values()))), jobs[0].bytes_down
    return SparseForecast(rounds, down, up, float(down * count), mean * count)


def _evaluating(setup: Setup, sender: Sender, members: Mapping[str, Sequence[str]]) -> float:
    """What clients are sent to score, in all validated rounds; a type's ranks say how much."""
    schedule, scorers = setup.settings.schedule, set(setup.examples.scorers)
    drawn = min(schedule.evaluating_clients, len(scorers))
    if not drawn or sender.rule.traits.alone:
        return 0.0
    of_type = {name: [c for c in clients if c in scorers] for name, clients in members.items()}
    there = {name: clients for name, clients in of_type.items() if clients}
    state, store = sender.begin(setup.spec), setup.roster.fresh_store()
    jobs = sender.evaluation(state, store, [clients[0] for clients in there.values()])
    counts = zip(there.values(), jobs, strict=True)
    mean = _mean([(len(clients), job.bytes_down) for clients, job in counts])
    return mean * drawn * validations(0, schedule.evaluate_every, schedule.rounds)


def _reply_bytes(rule: Rule, received: Adapter, wire: Wire, round: int) -> int:
    if rule.traits.alone:
        return 0
    payload = factors_payload(rule.reply(round, received, received, {}).adapter)
    return len(to_bytes(coarse_payload(payload, wire, torch.Generator())))


def _mean(weighted: Sequence[tuple[int, int]]) -> float:
    return sum(weight * value for weight, value in weighted) / sum(weight for weight, _ in weighted)
