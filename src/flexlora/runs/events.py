"""What happens in a run: told to observers, and one line of events.jsonl each.

As JSON an event is an object: `event` names it (a key of `EVENTS`), `time` is when it was told, in
seconds since 1970, the rest are its fields. A line of a name that is not known here is of another
version, and left out.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Self, final

from flexlora.errors import cut_short, shown
from flexlora.formats.json_fields import counts, number, text, texts, whole
from flexlora.formats.words import count
from flexlora.runs.fields import or_none, truth
from flexlora.runs.means import Means, means_of
from flexlora.runs.records import RoundRecord
from flexlora.runs.results import Result

# How a client may have failed.
FAILURES = ("train", "evaluate", "late", "quarantine", "stray", "screen")
_NAMES = 200  # Characters of the clients of a device.
SCHEMA = 1  # Of events as JSON; `started` carries it. It rises when a field changes its meaning.


@dataclass(frozen=True, kw_only=True)
class Event:
    """What all kinds share; only kinds are told. Equal events may be told at different times.

    durable: whether its line is on disk before a run goes on; a reply's may be lost with the power.
    """

    name: ClassVar[str]
    durable: ClassVar[bool] = True
    time: float = field(default_factory=clock.time, compare=False)

    def to_json(self) -> dict[str, Any]:
        return {"event": self.name, "time": round(self.time, 3), **self._values()}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Event | None:
        """What `to_json` gave; None for an event that is not known here.

        Raises ValueError naming the field that is missing or of a wrong type.
        """
        kind = EVENTS.get(text(record, "event"))
        if kind is None:
            return None
        return kind._read(record, number(record, "time"))

    def _values(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "time"}

    @classmethod
    def _read(cls, record: Mapping[str, Any], time: float) -> Self:
        """By the types of its fields; one with a default may be missing."""
        values = {
            f.name: _READERS[str(f.type)](record, f.name)
            for f in fields(cls)
            if f.name != "time" and (f.name in record or f.default is MISSING)
        }
        return cls(**values, time=time)


_READERS: Mapping[str, Callable[[Mapping[str, Any], str], Any]] = {
    "str": text,
    "int": whole,
    "int | None": or_none(whole),
    "bool": truth,
    "float": number,
    "tuple[str, ...]": texts,
    "Mapping[str, int]": counts,
    "tuple[Means, ...]": means_of,
}


@final
@dataclass(frozen=True)
class Started(Event):
    """Before the first round that is played, also on resume.

    run: its directory, as it was given; round: the last one that is already played; clients: type
    → how many there are.
    """

    name = "started"
    run: str
    rule: str
    model: str
    rounds: int
    round: int
    clients: Mapping[str, int]
    trackers: tuple[str, ...]
    schema: int = SCHEMA

    @classmethod
    def _read(cls, record: Mapping[str, Any], time: float) -> Self:
        found = super()._read(record, time)
        if found.schema != SCHEMA:
            raise ValueError(f"schema is {shown(found.schema)}, this FlexLoRA reads {SCHEMA}")
        return found


@final
@dataclass(frozen=True)
class RoundBegun(Event):
    """A round's clients are drawn, and what they are sent is made.

    clients: in order of their jobs; sparse: whether they train single weights, before any adapter;
    attempt: at this round, which is tried again where too few counted.
    """

    name = "round_begun"
    durable = False
    round: int
    clients: tuple[str, ...]
    sparse: bool = False
    attempt: int = 1


@final
@dataclass(frozen=True)
class Repeated(Event):
    """An attempt at a round brought too few clients that count, and it is tried again.

    attempt: the one that fell short; came: those that counted, asked: of so many, needed: at least.
    """

    name = "repeated"
    round: int
    attempt: int
    came: int
    asked: int
    needed: int

    @property
    def words(self) -> str:
        return (
            f"round {self.round}, attempt {self.attempt}: {self.came} of {self.asked} clients "
            f"count, expected {self.needed}; it is tried again"
        )


@final
@dataclass(frozen=True)
class Spare(Event):
    """A client's answer is needed no more, since enough others came first: no failure."""

    name = "spare"
    round: int
    client: str


@final
@dataclass(frozen=True)
class Rested(Event):
    """A client has failed so many times in a row, and is not asked again up to this round.

    failures: in a row; until: the last round that it rests.
    """

    name = "rested"
    round: int
    client: str
    failures: int
    until: int

    @property
    def words(self) -> str:
        return (
            f"client {self.client} has failed {self.failures} times in a row and rests up to round "
            f"{self.until}"
        )


@final
@dataclass(frozen=True)
class Replied(Event):
    """A client's update came, and was what was asked for.

    tokens: non-pad tokens seen; loss: mean over its steps; seconds: of its training; bytes_up: of
    the update as it was sent, which itself is in no event. peak_bytes: by how much training raised
    memory at most, beside the base model (null: its system does not tell), in a pass of so many
    clients, its cohort.
    """

    name = "reply"
    durable = False
    round: int
    client: str
    type: str
    examples: int
    tokens: int
    loss: float
    seconds: float
    bytes_up: int
    peak_bytes: int | None = None
    cohort: int = 1


@final
@dataclass(frozen=True)
class Failed(Event):
    """A client counts for nothing, and why.

    kind: what it was to do and did not, "train" or "evaluate"; or "late":
    its device would have taken longer than a round; "quarantine": what it gave is
    refused, by itself or beside all others; "stray": what came answers nothing that is asked: it is
    late, comes twice, or is of another round; "screen": it had replied, and a screen left it out.
    A stray is `refused`, and no failure of a client that may have answered well.
    """

    name = "failure"
    round: int
    client: str
    reason: str
    kind: str = "train"

    @property
    def refused(self) -> bool:
        return self.kind == "stray"

    @classmethod
    def _read(cls, record: Mapping[str, Any], time: float) -> Self:
        found = super()._read(record, time)
        if found.kind not in FAILURES:
            raise ValueError(f"kind is {shown(found.kind)}, expected one of {', '.join(FAILURES)}")
        return found


@final
@dataclass(frozen=True)
class RoundEnded(Event):
    """A round is committed; this is its line of metrics.jsonl."""

    name = "round"
    record: RoundRecord

    def _values(self) -> dict[str, Any]:
        return self.record.to_json()

    @classmethod
    def _read(cls, record: Mapping[str, Any], time: float) -> Self:
        return cls(RoundRecord.from_json(record), time=time)


@final
@dataclass(frozen=True)
class Halved(Event):
    """Memory ran out, and so many clients train at once from here on.

    The same config no longer gives the same bits: other numbers round otherwise.
    """

    name = "clients_at_once_halved"
    round: int
    clients: int


@final
@dataclass(frozen=True)
class Lowered(Event):
    """A client ran out of memory, and trains at lower ranks from here on, this round included.

    before, after: its ranks, in words.
    """

    name = "ranks_lowered"
    round: int
    client: str
    before: str
    after: str
    reason: str


@final
@dataclass(frozen=True)
class Allotted(Event):
    """A device has its ranks, by the server's policy; told behind `started`.

    device: its class; clients: those that train at these ranks; ranks: in words; why: what a rank
    more would break, and what this one takes; brought: whether the clients told of it themselves.
    """

    name = "ranks_allotted"
    device: str
    clients: tuple[str, ...]
    ranks: str
    why: str
    brought: bool

    @property
    def words(self) -> str:
        named = ", ".join(self.clients)
        who = f"{count(len(self.clients), 'client')} ({cut_short(named, _NAMES)})"
        return f"{self.device}, the device of {who}: rank {self.ranks} by {self.why}"


@final
@dataclass(frozen=True)
class Noted(Event):
    """What a person may want to know."""

    name = "note"
    text: str


@final
@dataclass(frozen=True)
class Scoring(Event):
    """All rounds are played, and this state is scored next.

    state: as in results.json: base, start, full or a client type.
    """

    name = "scoring"
    state: str


@final
@dataclass(frozen=True)
class Ended(Event):
    """The run is finished; results.json has all scores, this the means alone."""

    name = "result"
    run: str
    rule: str
    rounds: int
    scored_round: int
    bytes_up: int
    bytes_down: int
    seconds: float
    rows: tuple[Means, ...]

    @staticmethod
    def of(result: Result) -> Ended:
        return Ended(
            run=str(result.folder),
            rule=result.rule,
            rounds=result.rounds,
            scored_round=result.scored_round,
            bytes_up=result.bytes_up,
            bytes_down=result.bytes_down,
            seconds=round(result.seconds, 3),
            rows=tuple(
                Means(
                    row.state,
                    row.ranks,
                    row.unseen.mean(),
                    None if row.own is None else row.own.mean(),
                    row.own_by_type(),
                )
                for row in result.rows
            ),
        )

    @staticmethod
    def of_results(run: str, results: Mapping[str, Any]) -> Ended:
        """Out of a run's results.json. Raises ValueError for what is none."""
        return Ended._read({**results, "run": run}, clock.time())

    def _values(self) -> dict[str, Any]:
        return {**super()._values(), "rows": [row.to_json() for row in self.rows]}


EVENTS: Mapping[str, type[Event]] = {
    kind.name: kind
    for kind in (
        Started,
        RoundBegun,
        Repeated,
        Spare,
        Rested,
        Replied,
        Failed,
        RoundEnded,
        Halved,
        Lowered,
        Allotted,
        Noted,
        Scoring,
        Ended,
    )
}
