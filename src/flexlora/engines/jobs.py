"""What the server asks of one client in one round, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from flexlora.adapters import Delta, Sides
from flexlora.evaluation import ClientScore
from flexlora.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Job:
    """One client, one round: to train an adapter and send it back, or to evaluate one.

    payload: the adapter, serialised; origin: whether Δ already holds it; delta: what the client's
    base must hold; bytes_down: what this client is sent, payload and missing part of Δ, as
    serialised. metrics: what the client measures on its own held-out part, of the adapter it is to
    evaluate or of what it trained; none: nothing. An evaluation has no use for recipe and seed.
    sides: those of the adapter that are to be trained.
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
    kind: Literal["train", "evaluate"] = "train"
    metrics: tuple[str, ...] = ()
    sides: Sides = "both"


@dataclass(frozen=True, eq=False)
class Reply:
    """A trained adapter, serialised, with what the client measured.

    examples: training examples (the weight); loss: mean over its steps, per response token;
    tokens: non-pad tokens seen; seconds: its training time; score: of what it trained, on its own
    held-out part, where the job asks for it and it has one.
    """

    job: str
    client: str
    payload: bytes
    examples: int
    loss: float
    steps: int
    tokens: int
    seconds: float
    score: ClientScore | None = None


@dataclass(frozen=True, eq=False)
class Scored:
    """A client's score of the adapter that it was asked to evaluate, on its own held-out part."""

    job: str
    client: str
    score: ClientScore


@dataclass(frozen=True)
class Failure:
    """A client that gave nothing usable, and why."""

    job: str
    client: str
    reason: str


Outcome = Reply | Scored | Failure


class Transport(Protocol):
    """All that an engine has to implement."""

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Have every job done; yield what comes back, in any order, each job at most once."""
        ...
