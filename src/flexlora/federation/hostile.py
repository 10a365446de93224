"""Some clients are hostile, on purpose: who they are, and what they send instead."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import final

import torch

from flexlora.adapters import (
    Adapter,
    coarse_payload,
    factors_payload,
    payload_adapter,
    wire_of,
)
from flexlora.config.config import Config
from flexlora.config.hostile import HostileConfig
from flexlora.engines.jobs import Job, Outcome, Reply, Train, Transport
from flexlora.errors import ConfigError
from flexlora.federation.attacks import (
    STRENGTHS,
    little_is_enough,
    shuffled,
    stepped,
)
from flexlora.federation.sampling import sample
from flexlora.federation.streams import Streams
from flexlora.formats.payloads import from_bytes, to_bytes
from flexlora.formats.words import count
from flexlora.tasks.clients import Client


def hostile_of(config: Config, clients: Collection[str]) -> tuple[str, ...]:
    """Which of these are hostile, drawn by the run's seed, in order of id; none without an attack.

    Raises ConfigError where nobody combines what clients send, single weights are sent, or one
    would collude with itself.
    """
    table, mode = config.hostile, config.federation.mode
    if table.attack == "none":
        return ()
    if mode != "federated":
        raise ConfigError(
            f"hostile.attack is {table.attack}, but federation.mode is {mode!r}, where no client's "
            "answer is combined with others'; leave [hostile] out"
        )
    if config.training.host == "slora" and table.attack != "label_flip":
        raise ConfigError(
            f"hostile.attack is {table.attack}, which is of adapters, but training.host is slora, "
            "whose first rounds send single weights; take label_flip, or another host"
        )
    most = max(1, int(table.share * len(clients) + 1e-9))
    if table.attack == "little_is_enough" and most < 2:
        raise ConfigError(
            f"hostile.attack is {table.attack}, in which clients collude, but hostile.share is "
            f"{table.share:g} of {count(len(clients), 'client')}, which is one; raise it"
        )
    draw = Streams(config.federation.seed).generator("hostile")
    return tuple(sorted(sample(sorted(clients), most, draw)))


def note(table: HostileConfig, hostile: Sequence[str]) -> tuple[str, ...]:
    """What a run says of it wherever it says of its data: of a config for an attack that names
    none, too, so that nobody takes a clean run for one that withstood something."""
    if not hostile:
        given = table.strength is not None or table.share != HostileConfig().share
        words = "[hostile] has no attack, so nobody is hostile; set hostile.attack, or leave it out"
        return (words,) if given else ()
    words = (
        f"a rehearsal: {count(len(hostile), 'client')} of [hostile] attack by {table.attack}: "
        f"{', '.join(hostile)}"
    )
    if table.strength is not None and table.attack == "label_flip":
        words += f"; hostile.strength is {table.strength:g}, and {table.attack} has none"
    return (words,)


def mislabelled(
    clients: Sequence[Client], table: HostileConfig, hostile: Collection[str]
) -> Sequence[Client]:
    """Under label_flip: every training example of theirs has the answer of their next one that has
    another."""
    if table.attack != "label_flip":
        return clients
    return [_mislabelled(client) if client.id in hostile else client for client in clients]


def _mislabelled(client: Client) -> Client:
    given = client.train
    flipped = []
    for k, example in enumerate(given):
        others = (*given[k + 1 :], *given[:k])
        other = next((x for x in others if x.references[0] != example.references[0]), example)
        flipped.append(replace(example, references=other.references, choices=()))
    return replace(client, train=tuple(flipped))


def attacked(engine: Transport, config: Config, hostile: Collection[str]) -> Transport:
    """The engine with hostile clients in it; the engine itself where there are none."""
    if not hostile or config.hostile.attack == "label_flip":
        return engine
    return _Hostile(engine, config, hostile)


@final
class _Hostile:
    """What hostile clients trained is exchanged for what their attack makes of it."""

    def __init__(self, engine: Transport, config: Config, hostile: Collection[str]) -> None:
        self._engine = engine
        self._hostile = frozenset(hostile)
        self._attack = config.hostile.attack
        self._strength = config.hostile.strength or STRENGTHS[self._attack]
        self._streams = Streams(config.federation.seed)

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        asked = {x.id: x for x in jobs if isinstance(x, Train) and x.client in self._hostile}
        together: list[tuple[Train, Reply]] = []
        for outcome in self._engine.exchange(jobs):
            job = asked.get(outcome.job)
            if job is None or not isinstance(outcome, Reply):
                yield outcome
            elif self._attack == "little_is_enough":
                together.append((job, outcome))
            else:
                yield self._with(job, outcome, self._alone(job, _adapter(outcome.payload)))
        together.sort(key=lambda pair: pair[1].client)
        trained = [_adapter(reply.payload) for _, reply in together]
        made = little_is_enough(trained, self._strength)
        for (job, reply), adapter in zip(together, made, strict=True):
            yield self._with(job, reply, adapter)

    def _alone(self, job: Train, trained: Adapter) -> Adapter:
        if self._attack == "shuffled":
            return shuffled(trained, self._strength)
        draw = self._draw("hostile", job)
        return stepped(self._attack, trained, _adapter(job.payload), self._strength, draw)

    def _with(self, job: Train, reply: Reply, adapter: Adapter) -> Reply:
        """What it sends instead travels in as many bits as what it trained."""
        wire, draw = wire_of(from_bytes(reply.payload).meta), self._draw("hostile wire", job)
        payload = coarse_payload(factors_payload(adapter), wire, draw)
        return replace(reply, payload=to_bytes(payload))

    def _draw(self, name: str, job: Train) -> torch.Generator:
        return self._streams.generator(name, job.round, job.attempt, job.client)

    def close(self) -> None:
        self._engine.close()


def _adapter(payload: bytes) -> Adapter:
    return payload_adapter(from_bytes(payload))
