"""From what was measured of single examples to scores of clients."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from numbers import Real
from typing import Any, TypeVar

from flexlora.errors import DataError
from flexlora.evaluation.aggregate import ClientScore, Prediction
from flexlora.evaluation.loss import ExampleLoss
from flexlora.evaluation.metric import METRICS, ChoiceLoss, Metric
from flexlora.tasks.prompts import Encoded

T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True)
class Row:
    """One example of one client: metric → (value, weight), and the generated text if any."""

    client: str
    example: Encoded
    numbers: Mapping[str, tuple[float, float]]
    text: str | None


def number_of(metric: Metric, client: str, example: Encoded, found: Any) -> tuple[float, float]:
    where = f"metric {metric.name!r}, client {client!r}, example {example.id!r}"
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


def score_of(
    client: str, category: str, rows: Sequence[Row], metrics: Sequence[Metric]
) -> ClientScore:
    """A metric whose weights add up to 0 over these rows has no value here."""
    means, weights = {}, {}
    for metric in metrics:
        numbers = [row.numbers[metric.name] for row in rows]
        if metric.summed:
            means[metric.name] = sum(value for value, _ in numbers)
            continue
        total = sum(weight for _, weight in numbers)
        if total > 0:
            means[metric.name] = sum(value * weight for value, weight in numbers) / total
            if metric.pooled:
                weights[metric.name] = total
    return ClientScore(
        client,
        category,
        len(rows),
        means,
        weights,
        {m.name: m for m in metrics if METRICS.get(m.name) is not m},
    )


def whole_score(
    client: str, category: str, rows: Sequence[Row], metrics: Sequence[Metric]
) -> ClientScore:
    """Over all of a client's examples every metric has a value."""
    score = score_of(client, category, rows, metrics)
    for name in rows[0].numbers:
        if name not in score.means:
            raise DataError(
                f"metric {name!r}, client {client!r}: the weights of its {len(rows)} examples add "
                "up to 0; give weights above 0"
            )
    return score


def grouped(things: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Key → its things, in the order in which keys and things first come."""
    groups: dict[K, list[T]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return groups


def predictions_of(
    by_client: Collection[Sequence[Row]], metrics: Sequence[Metric], count: int
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
