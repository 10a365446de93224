"""Scores of clients, and their means: by category, and over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flexlora.evaluation.metric import BESIDE, Metric, finished, is_summed
from flexlora.formats.json_fields import number, whole


@dataclass(frozen=True)
class ClientScore:
    """One client, or one client's examples of one category.

    means: metric → its mean over these examples (of a summed metric, their sum), not yet finished
    (for perplexity, the mean loss): what means over clients are made of. values, and
    `score["rouge_l"]`: what is shown of them.
    weights: of a pooled metric, what its mean weighs among other clients'. given: those metrics
    that were no names of registered ones, by name.
    """

    client: str
    category: str
    examples: int
    means: Mapping[str, float]
    weights: Mapping[str, float] = field(default_factory=dict)
    given: Mapping[str, Metric] = field(default_factory=dict, repr=False, compare=False)

    @property
    def values(self) -> dict[str, float]:
        return finished(self.means, self.given)

    def __getitem__(self, metric: str) -> float:
        return self.values[metric]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: the metrics stand beside the rest."""
        who = {"client": self.client, "category": self.category, "examples": self.examples}
        return who | self.values


def values_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics among the entries of scores as JSON, where null stands for NaN.

    Raises ValueError for what is no number.
    """
    return {name: number(record, name) for name in record if name not in BESIDE}


@dataclass(frozen=True)
class MeanScore:
    """Metric → its mean over clients, each weighted by its number of examples, then finished.

    Of a pooled metric, weighted by its own weights; of a summed one, the sum over clients.
    """

    clients: int
    examples: int
    values: Mapping[str, float]

    def __getitem__(self, metric: str) -> float:
        return self.values[metric]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: the metrics stand beside the counts."""
        return {"clients": self.clients, "examples": self.examples, **self.values}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> MeanScore:
        """What `to_json` gave. Raises ValueError for what is no number."""
        clients, examples = (whole(record, name) for name in ("clients", "examples"))
        return MeanScore(clients, examples, values_of(record))


@dataclass(frozen=True)
class Prediction:
    """One generated text, the first of its references, and its own value of each text metric."""

    client: str
    example: str
    text: str
    reference: str
    values: Mapping[str, float]

    def __getitem__(self, metric: str) -> float:
        return self.values[metric]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: the metrics stand beside the texts."""
        texts = {"text": self.text, "reference": self.reference}
        return {"client": self.client, "example": self.example, **texts, **self.values}


@dataclass(frozen=True)
class Scores:
    """Rows in the order of the clients; predictions only if they were asked for.

    left_out: examples that were to be scored, but fit no prompt and were left out on request.
    cells: the same scores by client and category; without, each client is of one category. notes:
    what a metric passes over in the references, in sentences.
    """

    clients: tuple[ClientScore, ...]
    predictions: tuple[Prediction, ...] = ()
    left_out: int = 0
    cells: tuple[ClientScore, ...] = ()
    notes: tuple[str, ...] = ()

    def mean(self) -> MeanScore:
        """Over all clients, weighted by their examples (the paper's "weighted by size").

        A metric that some client has no value for is left out.
        """
        return _mean(self.clients)

    def by_category(self) -> dict[str, MeanScore]:
        """The same within each category, over the clients' examples of it; names sorted."""
        return {name: _mean(rows) for name, rows in self.rows_by_category().items()}

    def rows_by_category(self) -> dict[str, list[ClientScore]]:
        """Category → its clients' scores on their examples of it; names sorted."""
        rows = self.cells or self.clients
        names = sorted({row.category for row in rows})
        return {name: [row for row in rows if row.category == name] for name in names}

    def by_type(self, types: Mapping[str, str]) -> dict[str, MeanScore]:
        """The same over the clients of each type (client → type); names sorted.

        Clients that have none are left out.
        """
        kinds = sorted({types[row.client] for row in self.clients if row.client in types})
        return {
            kind: _mean([row for row in self.clients if types.get(row.client) == kind])
            for kind in kinds
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: mean, categories, clients, predictions."""
        return {
            "mean": self.mean().to_json(),
            "categories": {name: mean.to_json() for name, mean in self.by_category().items()},
            "clients": [row.to_json() for row in self.clients],
            "predictions": [row.to_json() for row in self.predictions],
        }


def _mean(rows: Sequence[ClientScore]) -> MeanScore:
    examples = [row.examples for row in rows]
    means = {}
    for name in rows[0].means:
        if all(name in row.means for row in rows):
            if is_summed(name, rows[0].given):
                means[name] = sum(row.means[name] for row in rows)
                continue
            sizes = [row.weights.get(name, row.examples) for row in rows]
            weighted = (row.means[name] * size for row, size in zip(rows, sizes, strict=True))
            means[name] = sum(weighted) / sum(sizes)
    return MeanScore(len(rows), sum(examples), finished(means, rows[0].given))
