"""Scores of a model on clients: each metric's number for every example, and their means."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from numbers import Real
from typing import Annotated, Any, TypeVar

from flexlora.errors import ConfigError, DataError
from flexlora.evaluation.aggregate import ClientScore, Prediction, Scores
from flexlora.evaluation.loss import ExampleLoss
from flexlora.evaluation.measure import measure
from flexlora.evaluation.metrics import ChoiceLoss, Metric, Need, resolve_metrics
from flexlora.evaluation.owners import Owners
from flexlora.evaluation.padding import Evaluated
from flexlora.models.carried import Carried
from flexlora.options import Option, require
from flexlora.tasks.prompts import Encoded

K = TypeVar("K")

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

    batch_size: Annotated[int, Option("examples scored at once", least=1)] = 16
    max_new_tokens: Annotated[int, Option("tokens generated at most", least=1)] = 64
    metrics: tuple[str | Metric, ...] = ("loss", "rouge_l", "exact_match")
    predictions: Annotated[int, Option("generated texts that are kept", least=0)] = 0

    def __post_init__(self) -> None:
        require(self)
        if not self.metrics:
            raise ConfigError("metrics is empty; name at least one")
        resolve_metrics(self.metrics)

    @property
    def given(self) -> dict[str, Metric]:
        """The metrics that are no names of registered ones."""
        return {x.name: x for x in self.metrics if isinstance(x, Metric)}


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
    _require_context(clients, {metric.needs for metric in metrics}, model.context)
    places = [(client, example) for client in clients for example in client.examples]
    owners = [k for k, client in enumerate(clients) for _ in client.examples]
    needs: set[Need] = {metric.needs for metric in metrics}
    found = measure(
        model,
        [example for _, example in places],
        needs,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        owners=None if carried is None else Owners(carried, owners),
    )
    rows = [
        _Row(
            client.id,
            example,
            {m.name: _number(m, client, example, found[m.needs][i]) for m in metrics},
            found["text"][i] if "text" in needs else None,
        )
        for i, (client, example) in enumerate(places)
    ]
    by_client = _grouped(rows, lambda row: row.client)
    cells = _grouped(rows, lambda row: (row.client, row.example.category))
    given = settings.given
    return Scores(
        tuple(_whole(c.id, c.category, by_client[c.id], given) for c in clients),
        _predictions(by_client.values(), metrics, settings.predictions),
        cells=tuple(_score(*cell, members, given) for cell, members in cells.items()),
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


@dataclass(frozen=True)
class _Row:
    """One example of one client: metric → (value, weight), and the generated text if any."""

    client: str
    example: Encoded
    numbers: Mapping[str, tuple[float, float]]
    text: str | None


def _number(
    metric: Metric, client: EvalClient, example: Encoded, found: Any
) -> tuple[float, float]:
    where = f"metric {metric.name!r}, client {client.id!r}, example {example.id!r}"
    try:
        value, weight = metric.score(example, found), metric.weight(example, found)
    except Exception as error:
        said = " ".join(str(error).split())
        raise DataError(
            f"{where}: it fails with {type(error).__name__}: {said}; correct the metric"
        ) from error
    for number in (value, weight):
        # A model that diverged has losses that are not finite: that is no mistake of the metric.
        if not isinstance(number, Real) or (_finite(found) and not math.isfinite(number)):
            raise DataError(f"{where}: it gives {number!r}, no finite number; correct the metric")
    if weight < 0:
        raise DataError(f"{where}: it gives the weight {weight!r}; give 0 or more")
    return float(value), float(weight)


def _finite(found: str | ExampleLoss | tuple[ChoiceLoss, ...]) -> bool:
    if isinstance(found, str):
        return True
    losses = (found,) if isinstance(found, ExampleLoss) else found
    return all(math.isfinite(loss.total) for loss in losses)


def _score(
    client: str, category: str, rows: Sequence[_Row], given: Mapping[str, Metric]
) -> ClientScore:
    """A metric whose weights add up to 0 over these rows has no value here."""
    means = {}
    for name in rows[0].numbers:
        numbers = [row.numbers[name] for row in rows]
        total = sum(weight for _, weight in numbers)
        if total > 0:
            means[name] = sum(value * weight for value, weight in numbers) / total
    return ClientScore(client, category, len(rows), means, given)


def _whole(
    client: str, category: str, rows: Sequence[_Row], given: Mapping[str, Metric]
) -> ClientScore:
    """Over all of a client's examples every metric has a value."""
    score = _score(client, category, rows, given)
    for name in rows[0].numbers:
        if name not in score.means:
            raise DataError(
                f"metric {name!r}, client {client!r}: the weights of its {len(rows)} examples add "
                "up to 0; give weights above 0"
            )
    return score


def _grouped(rows: Sequence[_Row], key: Callable[[_Row], K]) -> dict[K, list[_Row]]:
    """Key → its rows, in the order in which keys and rows first come."""
    groups: dict[K, list[_Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _predictions(
    by_client: Collection[Sequence[_Row]], metrics: Sequence[Metric], count: int
) -> tuple[Prediction, ...]:
    """The first example of each client in turn, then the second, … until there are `count`."""
    names = [metric.name for metric in metrics if metric.needs == "text"]
    if not names:
        return ()
    turns = chain.from_iterable(zip_longest(*by_client))
    return tuple(
        Prediction(
            row.client,
            row.example.id,
            row.text or "",
            row.example.references[0],
            {name: row.numbers[name][0] for name in names},
        )
        for row in islice((row for row in turns if row is not None), count)
    )
