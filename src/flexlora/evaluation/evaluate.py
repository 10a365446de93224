"""Scores of a model on clients: by client, by category, and over all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flexlora.errors import ConfigError, DataError
from flexlora.evaluation.generate import generate
from flexlora.evaluation.loss import response_losses
from flexlora.evaluation.padding import Evaluated
from flexlora.evaluation.scores import exact_match, rouge_l
from flexlora.tasks.prompts import Encoded


@dataclass(frozen=True)
class EvalClient:
    """A client to score: its encoded examples."""

    id: str
    examples: tuple[Encoded, ...]

    @property
    def category(self) -> str:
        """The category of all its examples, or "several"."""
        found = {example.category for example in self.examples}
        return found.pop() if len(found) == 1 else "several"


@dataclass(frozen=True)
class EvalSettings:
    """batch_size changes speed only; `generate` False measures the loss alone."""

    batch_size: int = 16
    max_new_tokens: int = 64
    generate: bool = True
    keep_predictions: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 1 or more")


@dataclass(frozen=True)
class ClientScore:
    """One client. rouge_l, exact_match: means over its examples, 0 to 100, None if not generated.

    loss: nats per response token (EOS included), over all of the client's response tokens.
    """

    client: str
    category: str
    examples: int
    rouge_l: float | None
    exact_match: float | None
    loss: float


@dataclass(frozen=True)
class MeanScore:
    """Means over clients, each weighted by its number of examples."""

    clients: int
    examples: int
    rouge_l: float | None
    exact_match: float | None
    loss: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Prediction:
    """One generated text and its ROUGE-L."""

    client: str
    example: str
    text: str
    rouge_l: float


@dataclass(frozen=True)
class Scores:
    """Rows in the order of the clients; predictions only if they were asked for.

    left_out: examples that were to be scored, but fit no prompt and were left out on request.
    """

    clients: tuple[ClientScore, ...]
    predictions: tuple[Prediction, ...] = ()
    left_out: int = 0

    def mean(self) -> MeanScore:
        """Over all clients, weighted by their examples (the paper's "weighted by size")."""
        return _mean(self.clients)

    def by_category(self) -> dict[str, MeanScore]:
        """The same within each category, names sorted."""
        names = sorted({row.category for row in self.clients})
        return {
            name: _mean([row for row in self.clients if row.category == name]) for name in names
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: mean, categories, clients, predictions."""
        return {
            "mean": self.mean().to_json(),
            "categories": {name: mean.to_json() for name, mean in self.by_category().items()},
            "clients": [asdict(row) for row in self.clients],
            "predictions": [asdict(row) for row in self.predictions],
        }


def evaluate(model: Evaluated, clients: Iterable[EvalClient], settings: EvalSettings) -> Scores:
    """Score a model on every example of every client.

    Examples of all clients share batches; the result does not depend on how. Raises DataError for
    no clients, a client without examples, or an id that comes twice.
    """
    clients = tuple(clients)
    _check(clients)
    examples = [example for client in clients for example in client.examples]
    losses = response_losses(model, examples, batch_size=settings.batch_size)
    texts: Sequence[str] = ()
    if settings.generate:
        texts = generate(
            model,
            [example.prompt for example in examples],
            batch_size=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
        )
    rows: list[ClientScore] = []
    predictions: list[Prediction] = []
    start = 0
    for client in clients:
        stop = start + len(client.examples)
        of_client = [
            Prediction(client.id, example.id, text, rouge_l(text, example.references))
            for example, text in zip(client.examples, texts[start:stop], strict=False)
        ]
        matches = [
            exact_match(row.text, example.references)
            for row, example in zip(of_client, client.examples, strict=False)
        ]
        total = sum(loss.total for loss in losses[start:stop])
        tokens = sum(loss.tokens for loss in losses[start:stop])
        rows.append(
            ClientScore(
                client.id,
                client.category,
                len(client.examples),
                sum(row.rouge_l for row in of_client) / len(of_client) if of_client else None,
                sum(matches) / len(matches) if matches else None,
                total / tokens,
            )
        )
        predictions.extend(of_client if settings.keep_predictions else ())
        start = stop
    return Scores(tuple(rows), tuple(predictions))


def _check(clients: Sequence[EvalClient]) -> None:
    if not clients:
        raise DataError("there are no clients to evaluate; give at least one")
    seen: set[str] = set()
    for client in clients:
        if client.id in seen:
            raise DataError(f"client {client.id!r} comes twice in the evaluation; give it once")
        if not client.examples:
            raise DataError(f"client {client.id!r} has no examples to evaluate; leave it out")
        seen.add(client.id)


def _mean(rows: Sequence[ClientScore]) -> MeanScore:
    sizes = [row.examples for row in rows]

    def weighted(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        return _weighted(known, sizes)

    return MeanScore(
        len(rows),
        sum(sizes),
        weighted([row.rouge_l for row in rows]),
        weighted([row.exact_match for row in rows]),
        _weighted([row.loss for row in rows], sizes),
    )


def _weighted(values: Sequence[float], sizes: Sequence[int]) -> float:
    return sum(value * size for value, size in zip(values, sizes, strict=True)) / sum(sizes)
