"""What the server asks of one client in one round, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from flexlora.adapters import Delta, Sides
from flexlora.evaluation import ClientScore
from flexlora.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Train:
    """One client, one round: to train an adapter on its data and send it back.

    payload: the adapter, serialised; delta: Δ, on which its base must stand, and held: the version
    of it that the client holds (None: none); origin: whether Δ already holds the payload; sides:
    those of the adapter that are to be trained; seed: of its batches and dropout; metrics: what it
    measures, of what it trained, on its own held-out part (none: nothing); bytes_down: what it is
    sent, as serialised, payload and what it lacks of Δ; kept: earlier rounds that may be gone back
    to, of which a client forgets nothing; answered: the round that it answered last, whose memory
    it goes on with (None: none, or its rule has it remember nothing); attempt: at this round, from
    1 on.
    """

    id: str
    round: int
    client: str
    payload: bytes
    delta: Delta
    held: int | None
    origin: bool
    sides: Sides
    recipe: Recipe
    seed: int
    metrics: tuple[str, ...]
    bytes_down: int
    kept: tuple[int, ...] = ()
    answered: int | None = None
    attempt: int = 1


@dataclass(frozen=True, eq=False)
class TrainSparse:
    """One client, one round: to train single weights of the base, and send back their change.

    payload: layer → the change so far of the weights that any client trains, serialised; trained:
    layer → how many of these, from the first, are this client's; mask: the seed that says where
    they lie (see `adapters.sparse.places`); the rest as of `Train`.
    """

    id: str
    round: int
    client: str
    payload: bytes
    trained: Mapping[str, int]
    mask: int
    recipe: Recipe
    seed: int
    attempt: int = 1

    @property
    def bytes_down(self) -> int:
        return len(self.payload)


@dataclass(frozen=True, eq=False)
class Evaluate:
    """One client: to measure W₀ + an adapter, by these metrics, on its own held-out part.

    answered: as for `Train`.
    """

    id: str
    round: int
    client: str
    payload: bytes
    metrics: tuple[str, ...]
    answered: int | None = None

    @property
    def bytes_down(self) -> int:
        return len(self.payload)


Job = Train | TrainSparse | Evaluate


@dataclass(frozen=True, eq=False)
class Reply:
    """What was trained, an adapter or single weights, serialised, with what the client measured.

    examples: training examples (the weight); loss: mean over its steps, per response token;
    tokens: non-pad tokens seen; seconds: its training time; peak_bytes: by how much training it
    raised memory at most, beside the base model (None: its system does not tell), in a pass of so
    many clients, its cohort; score: of what it trained, on its own
    held-out part, where the job asks for it and it has one. Of an engine whose clients are
    elsewhere, by its own clock and not by their word: wire_seconds, from the job to the answer
    beside the training; back, whether the client had been gone since its last answer.
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
    peak_bytes: int | None = None
    cohort: int = 1
    wire_seconds: float | None = None
    back: bool = False


@dataclass(frozen=True, eq=False)
class Scored:
    """A client's score of the adapter that it was asked to evaluate, on its own held-out part."""

    job: str
    client: str
    score: ClientScore


Fault = Literal["train", "late", "quarantine", "stray"]
FAULTS: tuple[Fault, ...] = get_args(Fault)


@dataclass(frozen=True)
class Failure:
    """A client that gave nothing usable, and why.

    kind: "train": it did not do its job, or not in time; "late": it would not be in time, and was
    not waited for; "quarantine": what it gave is refused;
    "stray": what came answers no job that is open: it is late, comes twice, or is of another round.
    private: the reason may quote what the client holds, and leaves its machine no more than that.
    """

    job: str
    client: str
    reason: str
    kind: Fault = "train"
    private: bool = False


@dataclass(frozen=True)
class Spare:
    """A client whose answer is needed no more: no failure, and nothing that counts.

    The server's own word: no client says it.
    """

    job: str
    client: str


@dataclass(frozen=True)
class Offer:
    """A client that ran out of memory, and the ranks (layer → rank) that it would try instead."""

    job: str
    client: str
    ranks: Mapping[str, int]
    reason: str


Answer = Reply | Scored | Failure | Spare
Outcome = Answer | Offer


class Transport(Protocol):
    """All that an engine has to implement."""

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Have every job done; yield what comes back, in any order, each job at most once."""
        ...

    def close(self) -> None:
        """Let go of all that was begun; nothing is exchanged afterwards."""
        ...
