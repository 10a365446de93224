"""Where the clients of a session are: in this process and its workers, or on other machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Protocol, final

from flexlora.config.config import Config
from flexlora.engines.cohorts import Halved
from flexlora.engines.jobs import Transport
from flexlora.federation.at_once import choose
from flexlora.federation.engine import make_engine
from flexlora.federation.setup import Setup, prepare
from flexlora.rules import Rule
from flexlora.tasks.trained import Trained
from flexlora.training import CohortSize


class Place(Protocol):
    """What a session has to know of where its clients are; all else is the same everywhere.

    in_time: whether answers come in the order of time, so that the first ones count, and
    rounds take the time that they take: none is simulated for devices.
    """

    in_time: bool

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
        """Model, clients and their ranks, as `setup.prepare` has it."""
        ...

    def at_once(self, setup: Setup, rule: Rule) -> CohortSize:
        """How many clients train in one forward pass."""
        ...

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
        """The engine of a run, not begun yet. memory: the folder for what clients remember, where
        they are here; noted: is told what a person may want to know, in sentences."""
        ...

    def resolved(self) -> dict[str, Any]:
        """What a run notes of it, for resolved.toml."""
        ...


@final
class Here:
    """All clients train on this machine."""

    in_time = False

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
        return prepare(
            config, like, threads=threads, device=device, today=today, types=types, before=before
        )

    def at_once(self, setup: Setup, rule: Rule) -> CohortSize:
        return choose(setup, rule)

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
        return make_engine(setup, rule, cohort=cohort, halved=halved, memory=memory)

    def resolved(self) -> dict[str, Any]:
        return {}


HERE = Here()
