"""What a run comes to: scores on unseen examples, bytes and seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexlora.evaluation import MeanScore, Scores
from flexlora.runs.records import RoundRecord

# States that are scored, beside what each client type is given: the bare base model, what a run
# began from, and all that it learned.
BASE, START, FULL = "base", "start", "full"
STATE_WORDS = {BASE: "base model", START: "starting state", FULL: "full state"}


@dataclass(frozen=True)
class Row:
    """Scores of one state: on the unseen examples, and on the training clients' own test parts.

    state: a key of `STATE_WORDS`, or a client type's name; ranks: its ranks in words. own is None
    where the config asks for none. types: training client → its type, by which its own part is
    summed up.
    """

    state: str
    ranks: str
    unseen: Scores
    own: Scores | None
    types: Mapping[str, str] = field(default_factory=dict, repr=False)

    def own_by_type(self) -> dict[str, MeanScore]:
        """Client type → the means over its clients' own test parts."""
        return {} if self.own is None else self.own.by_type(self.types)

    def to_json(self) -> dict[str, Any]:
        own = None
        if self.own is not None:
            types = {name: mean.to_json() for name, mean in self.own_by_type().items()}
            own = {"types": types, **self.own.to_json()}
        return {
            "state": self.state,
            "ranks": self.ranks,
            "unseen": self.unseen.to_json(),
            "own": own,
        }


@dataclass(frozen=True)
class Result:
    """A finished run. rounds: rounds played; scored_round: the round whose state was scored.

    bytes: all that was sent between server and clients, to train and to evaluate, as serialised.
    """

    folder: Path
    rule: str
    rounds: int
    scored_round: int
    rows: tuple[Row, ...]
    bytes_up: int
    bytes_down: int
    seconds: float

    @staticmethod
    def of(
        folder: Path,
        rule: str,
        scored_round: int,
        rows: Sequence[Row],
        records: Sequence[RoundRecord],
    ) -> Result:
        """Add up the rounds' bytes and seconds."""
        return Result(
            folder=folder,
            rule=rule,
            rounds=len(records),
            scored_round=scored_round,
            rows=tuple(rows),
            bytes_up=sum(record.bytes_up for record in records),
            bytes_down=sum(record.total_bytes_down for record in records),
            seconds=sum(record.total_seconds for record in records),
        )

    def row(self, state: str) -> Row:
        """The row of this state. Raises KeyError for one that was not scored."""
        for row in self.rows:
            if row.state == state:
                return row
        raise KeyError(state)

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "rounds": self.rounds,
            "scored_round": self.scored_round,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "seconds": round(self.seconds, 3),
            "rows": [row.to_json() for row in self.rows],
        }
