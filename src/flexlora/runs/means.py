"""What a run's results come to: the means of each scored state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flexlora.evaluation import MeanScore
from flexlora.formats.json_fields import table, text


@dataclass(frozen=True)
class Means:
    """A row of results.json without its categories, clients and predictions.

    own_types: client type → the means over its clients' own parts.
    """

    state: str
    ranks: str
    unseen: MeanScore
    own: MeanScore | None
    own_types: Mapping[str, MeanScore] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        types = {name: mean.to_json() for name, mean in self.own_types.items()}
        own = None if self.own is None else {"mean": self.own.to_json(), "types": types}
        unseen = {"mean": self.unseen.to_json()}
        return {"state": self.state, "ranks": self.ranks, "unseen": unseen, "own": own}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Means:
        own = table(record, "own") if record.get("own") is not None else None
        unseen = MeanScore.from_json(table(table(record, "unseen"), "mean"))
        types = {} if own is None or "types" not in own else table(own, "types")
        return Means(
            text(record, "state"),
            text(record, "ranks"),
            unseen,
            None if own is None else MeanScore.from_json(table(own, "mean")),
            {name: MeanScore.from_json(table(types, name)) for name in types},
        )


def means_of(record: Mapping[str, Any], key: str) -> tuple[Means, ...]:
    """Those of a list of rows. Raises ValueError for what is none."""
    rows = record.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(f"{key} is missing, or no list of objects")
    return tuple(map(Means.from_json, rows))
