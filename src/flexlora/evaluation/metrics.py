"""Metrics by name: those of the table, and a user's own out of a file of theirs.

To use one without touching the package: name it "path/to/file.py:function" wherever a metric is
named (see `metric_file`).
"""

from __future__ import annotations

from collections.abc import Sequence

from flexlora.errors import ConfigError, nearest
from flexlora.evaluation.metric import BESIDE as BESIDE
from flexlora.evaluation.metric import METRICS as METRICS
from flexlora.evaluation.metric import ChoiceLoss as ChoiceLoss
from flexlora.evaluation.metric import Metric as Metric
from flexlora.evaluation.metric import Need as Need
from flexlora.evaluation.metric import finished as finished
from flexlora.evaluation.metric import register_metric as register_metric
from flexlora.evaluation.metric import text_metric as text_metric
from flexlora.evaluation.metric_file import load_metric


def get_metric(name: str) -> Metric:
    """The metric of this name, or of a file: "path/to/file.py:function" (see `load_metric`).

    Raises ConfigError with the nearest known name, or saying what is wrong with the file.
    """
    if ":" in name:
        return load_metric(name)
    if name not in METRICS:
        raise ConfigError(
            f"metric {name!r} is unknown (one of your own is path/to/file.py:function); "
            f"{nearest(name, METRICS)}"
        )
    return METRICS[name]


def resolve_metrics(names: Sequence[str | Metric]) -> tuple[Metric, ...]:
    """These metrics in order, each once. Raises ConfigError as `get_metric` does."""
    found = [get_metric(name) if isinstance(name, str) else name for name in names]
    return tuple({metric.name: metric for metric in found}.values())
