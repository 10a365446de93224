"""What trackers are told of a run: flat names and plain values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flexlora.runs.events import Ended
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Run


def scalars(record: RoundRecord) -> dict[str, float]:
    """A round's record as flat names: what is not a finite number is left out.

    train_loss, learning_rate, examples, tokens, failures, bytes/{down,up,peak}, seconds/<phase>,
    validation/<metric>, clients/<global|tuned>/<metric>/<mean|worst|spread>.
    """
    found: dict[str, float] = {
        "train_loss": record.train_loss,
        "learning_rate": record.learning_rate,
        "examples": record.examples,
        "tokens": record.tokens,
        "failures": record.failures,
        "bytes/down": record.total_bytes_down,
        "bytes/up": record.bytes_up,
    }
    if record.peak_bytes is not None:
        found["bytes/peak"] = record.peak_bytes
    found |= {f"seconds/{phase}": seconds for phase, seconds in record.seconds.items()}
    if record.validation is not None:
        found |= _metrics("validation", record.validation.values)
    if record.on_clients is not None:
        for kind, scores in record.on_clients.by_kind.items():
            for metric, spread in scores.metrics.items():
                found |= _metrics(f"clients/{kind}/{metric}", asdict(spread))
    return _finite(found)


def final_scalars(event: Ended) -> dict[str, float]:
    """The scores at the end: final/<base|start|full|client type>/<unseen|own>/<metric>."""
    found: dict[str, float] = {}
    for row in event.rows:
        for whose, scores in (("unseen", row.unseen), ("own", row.own)):
            if scores is not None:
                found |= _metrics(f"final/{row.state}/{whose}", scores.values)
    return _finite(found)


def _metrics(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _finite(found: Mapping[str, float]) -> dict[str, float]:
    """Names with the signs that every tracker takes, values that are numbers."""
    return {
        re.sub(r"[^\w./ -]", "_", name): value
        for name, value in found.items()
        if math.isfinite(value)
    }


def hyperparameters(run: Run) -> dict[str, Any]:
    """The config as flat names, "table.key"; what is no plain value as JSON."""
    return {
        f"{table}.{key}": value if isinstance(value, str | int | float) else json.dumps(value)
        for table, values in run.config.document().items()
        for key, value in values.items()
    }
