"""Scores of a model on clients: each metric's number for every example, and their means."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from flexlora.errors import ConfigError, DataError
from flexlora.evaluation.aggregate import Scores
from flexlora.evaluation.blank import blank_references
from flexlora.evaluation.measure import measure
from flexlora.evaluation.metric import Metric, Need
from flexlora.evaluation.metrics import resolve_metrics
from flexlora.evaluation.owners import Owners
from flexlora.evaluation.padding import Evaluated
from flexlora.evaluation.rows import Row, grouped, number_of, predictions_of, score_of, whole_score
from flexlora.models.carried import Carried
from flexlora.options import MANY, Option, require
from flexlora.tasks.prompts import Encoded

SEVERAL = "several"


@dataclass(frozen=True)
class EvalClient:
    """A client to score: its encoded examples."""

    id: str
    examples: tuple[Encoded, ...]

    @property
    def category(self) -> str:
        """The category of all its examples, or "several"."""
        found = {example.category for example in self.examples}
        return found.pop() if len(found) == 1 else SEVERAL


@dataclass(frozen=True)
class EvalSettings:
    """How to score. metrics: names (see `get_metric`) or metrics; only what they need is computed.

    batch_size changes speed only. max_new_tokens counts where a metric needs texts. predictions:
    each client's first is kept before any one's second.
    Raises ConfigError for a value out of range and for a metric that is unknown.
    """

    batch_size: Annotated[int, Option("examples scored at once", least=1, most=MANY)] = 16
    max_new_tokens: Annotated[int, Option("tokens generated at most", least=1, most=MANY)] = 64
    metrics: tuple[str | Metric, ...] = ("loss", "rouge_l", "exact_match")
    predictions: Annotated[int, Option("generated texts that are kept", least=0, most=MANY)] = 0

    def __post_init__(self) -> None:
        require(self)
        if not self.metrics:
            raise ConfigError("metrics is empty; name at least one")
        resolve_metrics(self.metrics)


def evaluate(
    model: Evaluated,
    clients: Iterable[EvalClient],
    settings: EvalSettings,
    *,
    carried: Carried | None = None,
) -> Scores:
    """Score a model on every example of every client.

    carried: what the model carries, one adapter a client in their order (see `evaluate_each`).
    Examples of all clients share batches; the result does not depend on how. Raises DataError as
    `require_scorable` does, for an example that is empty or beyond the model's context, and,
    naming metric, client and example, for a metric that fails or gives no finite number for finite
    losses or for a text.
    """
    clients = tuple(clients)
    require_scorable(clients, settings)
    metrics = resolve_metrics(settings.metrics)
    needs: set[Need] = {metric.needs for metric in metrics}
    _require_context(clients, needs, model.context)
    places = [(client, example) for client in clients for example in client.examples]
    owners = [k for k, client in enumerate(clients) for _ in client.examples]
    found = measure(
        model,
        [example for _, example in places],
        needs,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        owners=None if carried is None else Owners(carried, owners),
    )
    rows = [
        Row(
            client.id,
            example,
            {m.name: number_of(m, client.id, example, found[m.needs][i]) for m in metrics},
            found["text"][i] if "text" in needs else None,
        )
        for i, (client, example) in enumerate(places)
    ]
    by_client = grouped(rows, lambda row: row.client)
    cells = grouped(rows, lambda row: (row.client, row.example.category))
    return Scores(
        tuple(whole_score(c.id, c.category, by_client[c.id], metrics) for c in clients),
        predictions_of(by_client.values(), metrics, settings.predictions),
        cells=tuple(score_of(*cell, members, metrics) for cell, members in cells.items()),
        notes=blank_references(metrics, (example for _, example in places)),
    )


def require_scorable(clients: Sequence[EvalClient], settings: EvalSettings) -> None:
    """Raise DataError for what cannot be scored, before anything is.

    That is: no clients, a client without examples, an id that comes twice, and, where a metric
    needs choices, an example without: a mean over some of the examples would not say over which.
    """
    if not clients:
        raise DataError("there are no clients to evaluate; give at least one")
    seen: set[str] = set()
    for client in clients:
        if client.id in seen:
            raise DataError(f"client {client.id!r} comes twice in the evaluation; give it once")
        if not client.examples:
            raise DataError(f"client {client.id!r} has no examples to evaluate; leave it out")
        seen.add(client.id)
    metric = next((m for m in resolve_metrics(settings.metrics) if m.needs == "choices"), None)
    places = [(client.id, example) for client in clients for example in client.examples]
    bare = [(client, example.id) for client, example in places if not example.choices]
    if metric is not None and bare:
        raise DataError(
            f"client {bare[0][0]!r}, example {bare[0][1]!r} has no choices, which the metric "
            f"{metric.name!r} needs ({len(bare):,} of {len(places):,} examples have none); give "
            f"every example its choices, or leave {metric.name!r} out"
        )


def _require_context(clients: Sequence[EvalClient], needs: Collection[Need], context: int) -> None:
    for client in clients:
        for example in client.examples:
            try:
                example.check(context, response="loss" in needs, choices="choices" in needs)
            except DataError as error:
                raise DataError(f"client {client.id!r}, {error}") from error
