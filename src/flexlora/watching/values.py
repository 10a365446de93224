"""Rounds, metrics and events as the plain values that a page is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flexlora.evaluation.metrics import METRICS
from flexlora.formats.visible import brief, visible
from flexlora.runs.means import Means
from flexlora.runs.records import RoundRecord
from flexlora.runs.results import STATE_WORDS

LONGEST = 200
"""Characters of a reason, or of an event that nobody has words for."""
ON_CLIENTS = " on clients"
"""What the name of a metric ends in that clients scored."""

Record = dict[str, Any]


def short(value: float) -> float | None:
    """Five digits, and four decimals, are more than a screen shows; JSON has no NaN."""
    if not math.isfinite(value):
        return None
    return round(value, 4) if abs(value) >= 1 else float(f"{value:.5g}")


def point(record: RoundRecord, metric: str) -> list[Any]:
    """[round, training loss, replies, failures, seconds, bytes down, bytes up, {metric: value}].

    metric: the one that decides; of what clients scored by it the figure that decides is taken,
    too, or their mean where the server decides.
    """
    values = {name: short(value) for name, value in record.scores.items()}
    if (on := record.on_clients) is not None:
        spread = on.shared.metrics.get(metric)
        value = on.decisive if on.decisive is not None or spread is None else spread.mean
        if value is not None and math.isfinite(value):
            values[metric + ON_CLIENTS] = short(value)
    return [
        record.round,
        short(record.train_loss),
        len(record.clients),
        record.failures,
        short(record.total_seconds),
        record.total_bytes_down,
        record.bytes_up,
        values,
    ]


def measure(name: str) -> Record:
    """How a metric among a point's values is shown, in the words of the report."""
    bare = name.removesuffix(ON_CLIENTS)
    metric = METRICS.get(bare)
    label = bare if metric is None or not metric.label else metric.label
    axis = "loss (nats per token)" if bare == "loss" else label
    shown = visible(label + (", on clients" if name != bare else ""))
    digits = 3 if metric is None else metric.digits
    return {"name": name, "label": shown, "axis": visible(axis), "digits": digits}


def outcome(row: Means) -> list[Any]:
    """[state, ranks, {metric: value on unseen examples}] of a final score."""
    words = visible(STATE_WORDS.get(row.state, row.state))
    return [words, visible(row.ranks), {k: short(x) for k, x in row.unseen.values.items()}]


def state_words(state: str) -> str:
    """What is scored at the end."""
    return visible(STATE_WORDS.get(state, f"clients of {state}"))


def plain(record: Mapping[str, Any]) -> str:
    """An event that nobody here has words for: its name and its fields as they stand."""
    fields = {k: x for k, x in record.items() if k not in ("event", "time", "check")}
    told = ", ".join(f"{name} {_value(value)}" for name, value in fields.items())
    name = str(record.get("event")).replace("_", " ")
    return brief(f"{name}: {told}" if told else name, LONGEST)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(item)}" for name, item in list(value.items())[:20])
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value[:20]))
    return str(value)[: 2 * LONGEST]
