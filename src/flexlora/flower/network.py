"""A session whose clients are on other machines: what it knows of them is what they tell."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, final

from flexlora.allocation.devices import Device
from flexlora.config.config import Config
from flexlora.engines.cohorts import Halved
from flexlora.engines.jobs import Transport
from flexlora.errors import ConfigError, RoundError, seen
from flexlora.federation.absent import Absent
from flexlora.federation.census import Census, Holding
from flexlora.federation.data import eval_clients, read_corpus, require_context, require_unseen
from flexlora.federation.examples import Examples
from flexlora.federation.hostile import hostile_of, note
from flexlora.federation.setup import Setup, prepare
from flexlora.federation.streams import Streams
from flexlora.flower.brought import why_unserved
from flexlora.flower.chunks import SIZE
from flexlora.flower.described import Described
from flexlora.flower.grid import Grid
from flexlora.flower.nodes import Link
from flexlora.flower.plan import Plan
from flexlora.flower.profiles import facts_device
from flexlora.flower.register import Register
from flexlora.formats.json_fields import table, texts
from flexlora.formats.words import count
from flexlora.models import AdaptedModel
from flexlora.rules import Rule
from flexlora.runs.fields import truth
from flexlora.tasks.clients import Client, as_clients
from flexlora.training import CohortSize

UNTOLD = "not told"
"""The label of examples whose client keeps its labels to itself."""
_POLL = 0.25  # Seconds.
_WIRE = "wire"  # In the run directory: answers that come in chunks.


@final
class Network:
    """The clients behind a link, in the run of this id.

    clients: how many to wait for, or their names, where the run has begun before; wait: seconds for
    that; deadline: seconds of a round; chunk: bytes of a message's body that travel at once.
    devices: client → the one that it told of when the run began, which counts from then on.
    """

    in_time = True

    def __init__(
        self,
        link: Link,
        run: str,
        clients: int | Collection[str],
        *,
        wait: float,
        deadline: float,
        chunk: int = SIZE,
        devices: Mapping[str, Device] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._link = link
        self._run = run
        self._clients = clients
        self._wait = wait
        self._deadline = deadline
        self._chunk = chunk
        self._devices = devices
        self._clock = clock
        self._sleep = sleep
        self._plan: Plan | None = None
        self._register: Register | None = None

    def prepare(
        self,
        config: Config,
        like: Setup | None,
        *,
        threads: int | None,
        device: str | None,
        today: date | None,
        types: Mapping[str, str] | None,
    ) -> Setup:
        """Load the model, wait for the clients, and take in what they tell.

        Raises ConfigError for what cannot be had over a network, and RoundError, with why each
        refused client was, where too few come in time.
        """
        require_networked(config)

        def gather(model: AdaptedModel, fingerprint: str, day: date) -> Examples:
            self._plan = Plan.of(config, self._run, day)

            def unserved(one: Described) -> str:
                if self._devices is not None:
                    return ""  # It was looked at when the run began.
                return why_unserved(config, model, one.name, one.device, one.fitting)

            self._register = Register(
                self._link,
                self._plan,
                fingerprint,
                deadline=self._wait,
                clock=self._clock,
                unserved=unserved,
            )
            told = self._gathered(self._register)
            if self._devices is not None:
                told = {name: _as_then(one, self._devices) for name, one in told.items()}
            return examples_of(config, model, day, told, _left_out(self._register, told))

        return prepare(
            config, threads=threads, device=device, today=today, types=types, gather=gather
        )

    def at_once(self, setup: Setup, rule: Rule) -> CohortSize:
        """Each client has a machine of its own."""
        return CohortSize(1, ())

    def engine(
        self,
        setup: Setup,
        rule: Rule,
        *,
        cohort: int,
        halved: Halved,
        memory: Path,
        noted: Callable[[str], None],
    ) -> Transport:
        assert self._register is not None
        assert self._plan is not None
        return Grid(
            self._link,
            self._register,
            self._plan,
            deadline=self._deadline,
            folder=memory.with_name(_WIRE),
            chunk=self._chunk,
            poll=_POLL,
            noted=noted,
            clock=self._clock,
            sleep=self._sleep,
        )

    def resolved(self) -> dict[str, Any]:
        return {"network": self._run}

    def _gathered(self, register: Register) -> dict[str, Described]:
        """Client → what it tells, of those that were waited for, in order of name."""
        until = self._clock() + self._wait
        wanted = self._clients
        while True:
            register.look()
            come = sorted(register.seats)
            if isinstance(wanted, int):
                missing = wanted - len(come)
                busy = register.asking or register.telling
                hopeless = len(come) + len(register.refused) >= wanted and not busy
            else:
                come = [name for name in come if name in wanted]
                missing = len(wanted) - len(come)
                hopeless = False
            if missing <= 0:
                break
            if self._clock() >= until or hopeless:
                raise RoundError(self._too_few(come, register))
            self._sleep(_POLL)
        chosen = come[:wanted] if isinstance(wanted, int) else come
        return {name: register.seats[name].described for name in chosen}

    def _too_few(self, come: Collection[str], register: Register) -> str:
        wanted = self._clients if isinstance(self._clients, int) else len(self._clients)
        who = f" ({', '.join(map(seen, come))})" if come else ""
        words = f"{len(come)} of {count(wanted, 'client')} came{who}"
        if not isinstance(self._clients, int):
            lacking = ", ".join(seen(name) for name in sorted(set(self._clients) - set(come)))
            words += f"; missing: {lacking}"
        if register.refused:
            return f"{words}; refused: {'; '.join(sorted(set(register.refused.values())))}"
        return f"{words} within {self._wait:g} s; start the others, or lower clients"


def require_networked(config: Config) -> None:
    """Raise ConfigError, naming the key, for what needs the clients' examples in one place, or code
    that clients do not have."""
    evaluation = config.evaluation
    if config.federation.mode == "centralised":
        raise ConfigError(
            "federation.mode is 'centralised', but over a network nobody has all examples; use "
            "flexlora run"
        )
    if evaluation.every and evaluation.validation_examples:
        raise ConfigError(
            f"evaluation.validation_examples is {evaluation.validation_examples}, but over a "
            "network the clients' examples stay with them; set it to 0, evaluation.on_clients to "
            "'global' and evaluation.decide_by to 'clients', or evaluation.every to 0"
        )
    if evaluation.validation_clients:
        raise ConfigError(
            f"evaluation.validation_clients is {evaluation.validation_clients}, but over a network "
            "the server reads no client's examples; set it to 0"
        )
    if config.hostile.attack == "label_flip":
        raise ConfigError(
            "hostile.attack is 'label_flip', but over a network the clients' examples stay with "
            "them; take another attack"
        )
    named = [("rule.name", config.rule.name), ("evaluation.metric", evaluation.metric)]
    for key, name in [*named, *(("evaluation.metrics", name) for name in evaluation.metrics)]:
        if ":" in name or (key == "rule.name" and config.rule.in_file):
            raise ConfigError(
                f"{key} has {name}, which is code in a file, and no client runs code because a "
                "server says so; use what FlexLoRA itself has"
            )


def examples_of(
    config: Config,
    model: AdaptedModel,
    day: date,
    told: Mapping[str, Described],
    noted: tuple[str, ...] = (),
) -> Examples:
    """The clients' examples, absent, and the unseen ones, which the server has itself.

    noted: what else there is to say of who came.
    """
    require_context(config, model)
    groups, notes = _unseen(config)
    notes += noted
    unseen = eval_clients(model, groups, "test", config, day)
    held = {name: one for name, one in told.items() if one.held_out}
    digest = hashlib.sha256()
    for name, one in told.items():
        digest.update(repr((name, one.train_digest, one.held_out_digest)).encode())
    notes += _capped(told, config.federation.most_examples)
    silent = [name for name, one in told.items() if one.labels is None]
    hostile = hostile_of(config, told)
    notes += note(config.hostile, hostile)
    if silent:
        notes += (f"labels stay with {count(len(silent), 'client')}: {', '.join(silent)}",)
    return Examples(
        source=config.data.source,
        fingerprint=digest.hexdigest(),
        recalled=False,
        train={
            name: Absent(one.fitting, 0, one.truncated, one.train_digest)
            for name, one in told.items()
        },
        validation=(),
        own_validation=(),
        held_out={
            name: Absent(one.held_out, one.tokens, 0, one.held_out_digest)
            for name, one in held.items()
        },
        own=(),
        unseen=unseen,
        types={name: str(one.rank) for name, one in told.items() if one.rank is not None},
        census=replace(
            Census.of(config.partition, (), (), groups),
            clients=tuple(_holding(one) for one in told.values()),
        ),
        notes=notes,
        left_out={
            "clients": 0,
            "unseen_groups": len(groups) - len(unseen),
            "train": sum(one.train - one.fitting for one in told.values()),
            "unseen": sum(len(c.test) for c in groups) - sum(len(c.examples) for c in unseen),
        },
        hostile=hostile,
        devices={name: one.device for name, one in told.items() if one.device is not None},
    )


def _as_then(one: Described, devices: Mapping[str, Device]) -> Described:
    """With the device that it told of when the run began, whatever it tells now."""
    rank = None if one.name in devices else one.rank
    return replace(one, rank=rank, device=devices.get(one.name))


def _left_out(register: Register, told: Collection[str]) -> tuple[str, ...]:
    """Who came and does not take part."""
    found = [f"a client was refused: {why}" for why in sorted(set(register.refused.values()))]
    late = sorted(set(register.seats) - set(told))
    found += [f"client {seen(name)} came, too, when the run had all its clients" for name in late]
    return tuple(found)


def _capped(told: Mapping[str, Described], most: int) -> tuple[str, ...]:
    """Whose word is more than it may be."""
    return tuple(
        f"client {seen(name)} says that it has {max(one.fitting, one.held_out):,} examples, of "
        f"which {most:,} count at most; see federation.most_examples"
        for name, one in told.items()
        if max(one.fitting, one.held_out) > most
    )


def _holding(one: Described) -> Holding:
    total = one.train + one.validation + one.test
    labels = {UNTOLD: total} if one.labels is None else dict(one.labels)
    return Holding(one.name, "", one.train, one.validation, one.test, labels)


def _unseen(config: Config) -> tuple[tuple[Client, ...], tuple[str, ...]]:
    """The server's own examples to score at the end, and notes on them."""
    if not config.evaluation.unseen:
        return (), ()
    streams = Streams(config.federation.seed)
    data = config.data.without_training()
    corpus = read_corpus(config.model_copy(update={"data": data}), streams)
    require_unseen(config, corpus)
    return as_clients(corpus.unseen, seed=streams.derive("split"), unseen=True), corpus.notes


def devices_told(data: Mapping[str, Any]) -> dict[str, Device]:
    """Client → the device that it told of when a run began, out of its data.json.

    Raises ValueError for what is none.
    """
    classes = table(data, "devices") if "devices" in data else {}
    return {
        client: facts_device(told)
        for name in classes
        if truth(told := table(classes, name), "brought")
        for client in texts(told, "clients")
    }


def names_of(data: Mapping[str, Any]) -> list[str]:
    """The clients of a run, out of its data.json."""
    return [str(client["id"]) for client in data["partition"]["clients"]]
