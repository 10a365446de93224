"""What a run comes to: scores on unseen clients, bytes and seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexlora.evaluation import Scores


@dataclass(frozen=True)
class Row:
    """Scores of one state: on the unseen clients, and on the training clients' own test parts.

    state: "base", "full" (all that was learned), or a client type's name; ranks: its ranks in
    words. own is None where the config asks for none.
    """

    state: str
    ranks: str
    unseen: Scores
    own: Scores | None

    def to_json(self) -> dict[str, Any]:
        own = None if self.own is None else self.own.to_json()
        return {
            "state": self.state,
            "ranks": self.ranks,
            "unseen": self.unseen.to_json(),
            "own": own,
        }


@dataclass(frozen=True)
class Result:
    """A finished run. rounds: rounds played; scored_round: the round whose state was scored."""

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
        metrics: Sequence[Mapping[str, Any]],
    ) -> Result:
        """Add up the rounds' metrics."""
        return Result(
            folder=folder,
            rule=rule,
            rounds=len(metrics),
            scored_round=scored_round,
            rows=tuple(rows),
            bytes_up=sum(m["bytes_up"] for m in metrics),
            bytes_down=sum(m["bytes_down"] for m in metrics),
            seconds=sum(sum(m["seconds"].values()) for m in metrics),
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
