"""What the server asks of one client in one round, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from flexlora.adapters import Delta
from flexlora.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Job:
    """Train: one client, one round.

    payload: the adapter to be trained, serialised; origin: whether Δ already holds it; delta: what
    the client's base must hold; bytes_down: what this client is sent, payload and missing part of
    Δ, as serialised.
    """

    id: str
    round: int
    client: str
    recipe: Recipe
    payload: bytes
    origin: bool
    delta: Delta
    bytes_down: int
    seed: int


@dataclass(frozen=True, eq=False)
class Reply:
    """A trained adapter, serialised, with what the client measured.

    examples: training examples (the weight); loss: mean over its steps, per response token;
    tokens: non-pad tokens seen; seconds: its training time.
    """

    job: str
    client: str
    payload: bytes
    examples: int
    loss: float
    steps: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Failure:
    """A client that gave nothing usable, and why."""

    job: str
    client: str
    reason: str


class Transport(Protocol):
    """All that an engine has to implement."""

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Reply | Failure]:
        """Have every job done; yield what comes back, in any order, each job at most once."""
        ...
