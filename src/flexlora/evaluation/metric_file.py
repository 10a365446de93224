"""A metric out of a user's own file, named as "path/to/file.py:function", and sending metrics."""

from __future__ import annotations

import inspect

from flexlora.errors import ConfigError
from flexlora.evaluation.metric import METRICS, Metric, register_metric, text_metric
from flexlora.formats.user_file import UserFile

# As another process takes it: what a file holds is known there by the file alone.
SentMetric = UserFile | Metric

# Metric → its file, and the object there: a changed file may replace its own metrics, no others.
_ORIGIN: dict[str, tuple[UserFile, object]] = {}


def read_metric_file(spec: str) -> UserFile:
    """The file as it is now. Raises ConfigError for a name of another form, or if it is missing."""
    return UserFile.read(spec, "metric", "function")


def load_metric(spec: str) -> Metric:
    """The metric that a file holds under this name; it is registered for this process.

    A function takes (prediction: str, references: tuple of str) and returns a number, higher being
    better; the metric bears its name. A `Metric` is taken as it is, under its own name. The path
    is relative to the working directory. The file is run as Python, with all that this may do.
    Raises ConfigError for a file that is missing or fails, a name that it lacks, an object that is
    neither, and a metric's name that is taken.
    """
    return _metric_of(read_metric_file(spec))


def sent_metric(metric: Metric) -> SentMetric:
    """The metric for another process; `take_metric` registers it there."""
    file, _ = _ORIGIN.get(metric.name, (None, None))
    return metric if file is None else file


def take_metric(sent: SentMetric) -> Metric:
    """Register what `sent_metric` gave in this process. Raises ConfigError for a name taken."""
    return _metric_of(sent) if isinstance(sent, UserFile) else register_metric(sent)


def _metric_of(file: UserFile) -> Metric:
    found = file.named(lambda x: inspect.isfunction(x) or isinstance(x, Metric))
    metric = found if isinstance(found, Metric) else _of_function(found, file.shown, file.name)
    origin = _ORIGIN.get(metric.name)
    ours = origin is not None and origin[0].path == file.path
    if origin is not None and ours and origin[1] is found:
        return METRICS[metric.name]
    if ours:
        METRICS.pop(metric.name, None)
    register_metric(metric)
    _ORIGIN[metric.name] = (file, found)
    return metric


def _of_function(found: object, shown: str, name: str) -> Metric:
    try:
        if not callable(found):
            raise TypeError("it cannot be called")
        inspect.signature(found).bind("prediction", ("reference",))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name!r} of metric file {shown} is no function of (prediction, references): {error}; "
            "give one, or a Metric"
        ) from error
    return text_metric(found, name=name)
