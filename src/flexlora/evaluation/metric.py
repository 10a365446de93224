"""What a metric is, and the table of all that this process knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flexlora.errors import ConfigError
from flexlora.registry import Registry
from flexlora.tasks.prompts import Encoded

Need = Literal["loss", "text", "choices"]
NEEDS: tuple[Need, ...] = ("loss", "text", "choices")

# Keys that stand beside the metrics in scores as JSON: no metric has one of these names.
BESIDE = ("client", "clients", "category", "example", "examples", "text", "reference")


@dataclass(frozen=True)
class ChoiceLoss:
    """One choice of an example: its summed loss (nats, with its end), and its text's bytes (≥ 1).

    −total is the log-likelihood of the choice and the token that ends it, given the prompt; end:
    that part of the loss which is this token's, so that end − total is the log-likelihood of the
    text alone.
    """

    total: float
    bytes: int
    end: float


_SLACK = 1e-6  # Of means that are summed up in another order.


def _one(_example: Encoded, _found: Any) -> float:
    return 1.0


def _as_it_is(mean: float) -> float:
    return mean


@dataclass(frozen=True)
class Metric:
    """A number for every example, and how the numbers of many become one.

    needs: what is measured for it, and given to `score` and `weight` beside the example: "loss"
    (the response's `ExampleLoss`), "text" (the generated answer, a str), or "choices" (a
    `ChoiceLoss` for each of the example's choices; the right one stands at `example.answer`).
    A client's mean is that of `score`, weighted by `weight` (default: every example the same). A
    mean over clients weights each client's mean by its number of examples, whatever `weight` is;
    pooled: by the sum of its examples' weights, so that it is the mean over all examples, whoever
    holds which (what a client says of that sum counts up to the tokens of its right answers).
    summed: no mean at all: a client's number is the sum of `score` over its examples, that of many
    clients the sum of theirs, and wherever a mean is spoken of, this sum stands. `weight` counts
    for nothing.
    least, most: what `score` can be, ends included; what a client says beyond them is refused.
    blank: of a reference, what the metric passes over, in words ("": nothing); users are told.
    finish: what is shown of a mean, of one client or of many (perplexity: exp of the mean loss).
    label, digits: how tables show it (default label: the name).
    Raises ConfigError for a name that a table of scores has for something else, unknown needs, or
    ends that leave nothing between them.
    """

    name: str
    needs: Need
    higher_is_better: bool
    score: Callable[[Encoded, Any], float]
    weight: Callable[[Encoded, Any], float] = _one
    finish: Callable[[float], float] = _as_it_is
    label: str = ""
    digits: int = 3
    pooled: bool = False
    summed: bool = False
    least: float = -math.inf
    most: float = math.inf
    blank: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name in BESIDE:
            raise ConfigError(
                f"{self.name!r} cannot name a metric; give letters, digits and underscores, and "
                f"none of {', '.join(BESIDE)}"
            )
        if self.pooled and self.summed:
            raise ConfigError(
                f"metric {self.name!r} is pooled and summed, but a sum has no weights; choose one"
            )
        if self.needs not in NEEDS:
            raise ConfigError(
                f"metric {self.name!r} needs {self.needs!r}; give one of {', '.join(NEEDS)}"
            )

        if not self.least < self.most:
            raise ConfigError(
                f"metric {self.name!r} is at least {self.least:g} and at most {self.most:g}, which "
                "leaves nothing between them; give a lower least or a higher most"
            )

    def possible(self, mean: float, examples: int) -> bool:
        """Whether so many examples can come to this mean (of a summed metric, to this sum), but
        for its rounding."""
        times = examples if self.summed else 1
        slack = _SLACK * max(1.0, abs(mean))
        return self.least * times - slack <= mean <= self.most * times + slack

    @property
    def heading(self) -> str:
        """Its label with an arrow to where it is better."""
        return f"{self.label or self.name} {'↑' if self.higher_is_better else '↓'}"


METRICS: Registry[Metric] = Registry(
    "metric", hint=" (one of your own is path/to/file.py:function)"
)


def text_metric(
    function: Callable[[str, tuple[str, ...]], float],
    *,
    name: str = "",
    higher_is_better: bool = True,
) -> Metric:
    """A metric of generated texts from a plain function: (prediction, references) → number.

    Its mean is the plain mean over examples. name: default the function's own.
    """
    return Metric(name or function.__name__, "text", higher_is_better, _OfText(function))


@dataclass(frozen=True)
class _OfText:
    """No closure, for a metric is sent to worker processes."""

    function: Callable[[str, tuple[str, ...]], float]

    def __call__(self, example: Encoded, text: str) -> float:
        return self.function(text, example.references)


def register_metric(metric: Metric) -> Metric:
    """Add a metric under its name; an equal one may be there already, and is given.

    Raises ConfigError if another has that name.
    """
    METRICS.add(metric.name, metric)
    return METRICS[metric.name]


def is_summed(name: str, given: Mapping[str, Metric]) -> bool:
    """Whether this metric is: by those that are given, else by those registered here."""
    metric = given.get(name) or METRICS.get(name)
    return metric is not None and metric.summed


def finished(means: Mapping[str, float], given: Mapping[str, Metric]) -> dict[str, float]:
    """What is shown of these means: by the metrics that are given, else those registered here.

    A name that is neither keeps its mean.
    """
    known = {**{name: METRICS[name] for name in means if name in METRICS}, **given}
    return {
        name: known[name].finish(mean) if name in known else mean for name, mean in means.items()
    }
