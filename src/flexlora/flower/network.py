"""A session whose clients are on other machines: what it knows of them is what they tell."""

from __future__ import annotations

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
from flexlora.errors import RoundError, seen
from flexlora.federation.examples import Examples
from flexlora.federation.setup import Setup, prepare
from flexlora.flower.brought import why_unserved
from flexlora.flower.chunks import SIZE
from flexlora.flower.described import Described
from flexlora.flower.grid import Grid
from flexlora.flower.networked import require_networked, require_no_code_begun_from
from flexlora.flower.nodes import Link
from flexlora.flower.plan import Plan
from flexlora.flower.register import Register
from flexlora.flower.told import examples_of
from flexlora.formats.words import count
from flexlora.models import AdaptedModel
from flexlora.rules import Rule
from flexlora.tasks.trained import Trained
from flexlora.training import CohortSize

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
        before: Trained,
    ) -> Setup:
        """Load the model, wait for the clients, and take in what they tell.

        Raises ConfigError for what cannot be had over a network, and RoundError, with why each
        refused client was, where too few come in time.
        """
        require_networked(config)
        require_no_code_begun_from(config)

        def gather(model: AdaptedModel, fingerprint: str, day: date) -> Examples:
            self._plan = Plan.of(config, self._run, day)

            def unserved(one: Described) -> str:
                if self._devices is not None:
                    return ""  # It was looked at when the run began.
                most = config.clients.max_rank
                if one.rank is not None and most is not None and one.rank > most:
                    return (
                        f"client {seen(one.name)} asks for rank {one.rank}, and clients.max_rank "
                        f"is {most}; set client.rank to that at most"
                    )
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
            return examples_of(config, model, day, told, _left_out(self._register, told), before)

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
