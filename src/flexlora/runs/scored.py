"""The final scores of a run as results.json has them, typed: by state, part, client type, category.

`Run.ended` has the means alone, as the run's last event tells them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flexlora.evaluation import MeanScore
from flexlora.evaluation.aggregate import values_of
from flexlora.formats.json_fields import table, tables, text, whole
from flexlora.runs.fields import natural
from flexlora.runs.run_directory import Run


@dataclass(frozen=True)
class SingleScore:
    """One client, or one unseen task: its metrics as they are shown."""

    client: str
    category: str
    examples: int
    values: Mapping[str, float]

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> SingleScore:
        """Raises ValueError naming the entry that is missing or wrong."""
        client, category = text(record, "client"), text(record, "category")
        return SingleScore(client, category, whole(record, "examples"), values_of(record))


@dataclass(frozen=True)
class PartScores:
    """One state on one part: over all clients, over those of each type, within each category, and
    of each client alone.

    types: of the clients' own parts alone.
    """

    mean: MeanScore
    categories: Mapping[str, MeanScore] = field(default_factory=dict)
    types: Mapping[str, MeanScore] = field(default_factory=dict)
    clients: tuple[SingleScore, ...] = ()

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> PartScores:
        """Raises ValueError naming the entry that is missing or wrong."""
        return PartScores(
            MeanScore.from_json(table(record, "mean")),
            _means(record, "categories"),
            _means(record, "types"),
            tuple(map(SingleScore.from_json, tables(record, "clients"))),
        )


@dataclass(frozen=True)
class StateScores:
    """A row of results.json. parts: "unseen" and "own", those on which it was scored."""

    state: str
    ranks: str
    parts: Mapping[str, PartScores]

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> StateScores:
        parts = {
            part: PartScores.from_json(table(record, part))
            for part in ("unseen", "own")
            if record.get(part) is not None
        }
        return StateScores(text(record, "state"), text(record, "ranks"), parts)


@dataclass(frozen=True)
class FinalScores:
    """scored_round: the round whose state was scored; states: in the order of the file."""

    scored_round: int
    states: tuple[StateScores, ...]


def read_scores(run: Run) -> FinalScores | None:
    """None for a run that has not ended. Raises RunError for lost or damaged scores."""
    results = run.read_results()
    if results is None:
        return None
    with run.undamaged("results.json"):
        states = tuple(map(StateScores.from_json, tables(results, "rows")))
        return FinalScores(natural(results, "scored_round"), states)


def _means(record: Mapping[str, Any], name: str) -> dict[str, MeanScore]:
    found = table(record, name) if record.get(name) else {}
    return {key: MeanScore.from_json(table(found, key)) for key in found}
