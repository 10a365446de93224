"""A metric out of a user's own file, named as "path/to/file.py:function"."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import ModuleType

from flexlora.errors import ConfigError, nearest
from flexlora.evaluation.metric import METRICS, Metric, register_metric, text_metric

# What each file gave, by path, time of change and size: a file that has not changed runs once.
_LOADED: dict[tuple[Path, int, int], ModuleType] = {}
# Metric → its file, and the object there: a changed file may replace its own metrics, no others.
_ORIGIN: dict[str, tuple[Path, object]] = {}


def load_metric(spec: str) -> Metric:
    """The metric that a file holds under this name; it is registered for this process.

    A function takes (prediction: str, references: tuple of str) and returns a number, higher being
    better; the metric bears its name. A `Metric` is taken as it is, under its own name. The path
    is relative to the working directory. The file is run as Python, with all that this may do.
    Raises ConfigError for a file that is missing or fails, a name that it lacks, an object that is
    neither, and a metric's name that is taken.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file).resolve()
    if path.suffix != ".py" or not name.isidentifier():
        raise ConfigError(f"metric {spec!r} names no function; give path/to/file.py:function")
    module = _module(path, file)
    found = getattr(module, name, None)
    if found is None:
        given = [key for key, value in vars(module).items() if _is_metric(value, module)]
        raise ConfigError(
            f"metric file {file} has no {name!r}; "
            f"{nearest(name, given) if given else 'it holds no function'}"
        )
    metric = found if isinstance(found, Metric) else _of_function(found, file, name)
    origin = _ORIGIN.get(metric.name)
    if origin == (path, found):
        return METRICS[metric.name]
    if origin is not None and origin[0] == path:
        METRICS.pop(metric.name, None)
    register_metric(metric)
    _ORIGIN[metric.name] = (path, found)
    return metric


def _is_metric(value: object, module: ModuleType) -> bool:
    here = inspect.isfunction(value) and value.__module__ == module.__name__
    return here or isinstance(value, Metric)


def _module(path: Path, shown: str) -> ModuleType:
    try:
        stat = path.stat()
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"metric file {shown} cannot be read ({error.strerror}); its path is relative to the "
            "working directory"
        ) from error
    key = (path, stat.st_mtime_ns, stat.st_size)
    if key in _LOADED:
        return _LOADED[key]
    # Not by the import system: that would leave compiled files beside the user's.
    module = ModuleType(f"flexlora_metric_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # Dataclasses in the file look themselves up here.
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise ConfigError(
            f"metric file {shown} fails with {type(error).__name__}: "
            f"{' '.join(str(error).split())}; correct it"
        ) from error
    _LOADED[key] = module
    return module


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
