"""One client's part in a run: its model, its examples and its engine, made from the run's plan."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from flexlora.adapters import Delta
from flexlora.allocation.devices import Device
from flexlora.config.config import Config
from flexlora.config.settings import played_rule, played_screens, validation_settings
from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Job, Outcome
from flexlora.errors import DataError, nearest, seen
from flexlora.federation.absent import add_to, answer_tokens, truncated
from flexlora.federation.examples import Dealt
from flexlora.federation.ground import Ground
from flexlora.federation.threads import use_threads
from flexlora.flower.client_file import ClientFile
from flexlora.flower.described import Described
from flexlora.flower.plan import Plan
from flexlora.tasks.clients import Client
from flexlora.tasks.prompts import Encoded

_SLACK = 1 << 20


class Part:
    """The client of this file in the run of this plan.

    ground: of an earlier part, whose model and examples are used again where they fit; folder: of
    the client's own, for what it remembers, run by run; device: that its operator tells of. Raises
    InputErrors for all that can be wrong with the model, the data, or what the server asks for.
    """

    def __init__(
        self,
        client: ClientFile,
        plan: Plan,
        folder: Path,
        ground: Ground | None = None,
        device: Device | None = None,
    ) -> None:
        self._device = device
        self.name, self.plan = client.client.name, plan
        self._client = client
        config = plan.config_for(client)
        use_threads(config.run.threads)
        self.ground = Ground.of(config, like=ground, today=plan.today, deal=self._deal)
        model, examples = self.ground.model, self.ground.examples
        if not examples.train.get(self.name):
            raise DataError(
                f"client {seen(self.name)} has no example to train on that fits "
                f"{config.data.max_tokens} tokens; give it data, or a model with more context"
            )
        settings = validation_settings(config)
        self.ground.rehearsed(config, settings.metrics)
        self._engine = InProcess(
            model,
            {self.name: examples.train[self.name]},
            played_rule(config),
            {self.name: examples.held_out.get(self.name, ())},
            settings,
            memory=folder / "memory" / _plain(plan.run),
            screens=played_screens(config),
        )

    def limit_bytes(self) -> int:
        """More than any job's adapter and Δ together can be for this model, in float32."""
        numbers = sum(x.m * x.n for x in self.ground.model.layers)
        return 4 * 4 * numbers + _SLACK

    def do(self, job: Job) -> Outcome:
        (outcome,) = self._engine.exchange([job])
        return outcome

    def describe(self, delta: Delta | None) -> Described:
        """delta: that it holds of this run."""
        examples = self.ground.examples
        (holding,) = examples.census.clients
        train, held_out = examples.train[self.name], examples.held_out.get(self.name, ())
        return Described(
            name=self.name,
            rank=self._client.client.rank,
            train=holding.train,
            validation=holding.validation,
            test=holding.test,
            fitting=len(train),
            truncated=truncated(train),
            held_out=len(held_out),
            tokens=answer_tokens(held_out),
            labels=holding.labels if self._client.client.labels else None,
            model=self.ground.fingerprint,
            train_digest=self._digest(train),
            held_out_digest=self._digest(held_out),
            held=None if delta is None else delta.version,
            device=self._device,
        )

    def _digest(self, part: Sequence[Encoded]) -> str:
        # Salted: nobody can look up whether two runs, or two silos, hold the same examples.
        digest = hashlib.sha256(self.plan.run.encode())
        add_to(digest, part)
        return digest.hexdigest()

    def _deal(self, config: Config) -> Dealt:
        return dealt_to(self._client, config)


def dealt_to(client: ClientFile, config: Config) -> Dealt:
    """What a client's data comes to, as one client of its name. Raises InputErrors as `Dealt.of`
    does, and DataError where the data has no rows of those that it names."""
    dealt = Dealt.of(config)
    mine = list(_rows(client, dealt.clients))
    parts = (
        tuple(example for one in mine for example in getattr(one, part))
        for part in ("train", "validation", "test")
    )
    return replace(dealt, clients=(Client(client.client.name, *parts),))


def _rows(client: ClientFile, clients: Sequence[Client]) -> Iterator[Client]:
    if client.client.rows == "all":
        yield from clients
        return
    named = {one.id: one for one in clients}
    for name in client.client.owners or (client.client.name,):
        if name not in named:
            raise DataError(
                f"client.rows is 'named', but no row of the data is of client {seen(name)}; "
                f"{nearest(name, named)}"
            )
        yield named[name]


def _plain(run: str) -> str:
    """Of a run's id: what a server calls a run becomes no path here."""
    return hashlib.sha256(run.encode()).hexdigest()[:32]
