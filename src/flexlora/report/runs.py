"""What a report knows of its runs, as plain values: the page never meets a raw record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flexlora.evaluation.metrics import METRICS
from flexlora.runs.events import Failed, Rested
from flexlora.runs.files import Record
from flexlora.runs.records import RoundRecord
from flexlora.runs.scored import SingleScore
from flexlora.runs.spectra import Spectrum

SCOPES = ("unseen", "own")
_FINGERPRINTS = ("fingerprint", "model_fingerprint", "encoding_fingerprint")


@dataclass(frozen=True)
class Measure:
    """How a metric is shown. higher: where it is better; None where no run says it."""

    name: str
    label: str
    digits: int
    higher: bool | None

    @staticmethod
    def of(name: str, higher: Mapping[str, bool] = MappingProxyType({})) -> Measure:
        """A known metric, or one of a user's own: of these a run records where it is better."""
        metric = METRICS.get(name)
        if metric is None:
            return Measure(name, name, 3, higher.get(name))
        return Measure(name, metric.label or name, metric.digits, metric.higher_is_better)

    @property
    def heading(self) -> str:
        """Its label with an arrow to where it is better."""
        return self.label + {True: " ↑", False: " ↓", None: ""}[self.higher]

    @property
    def axis(self) -> str:
        """Its label with its unit, where it has one."""
        return "loss (nats per token)" if self.name == "loss" else self.label

    def gain(self, value: float, base: float) -> float:
        """How much better `value` is than `base`; plain difference where no direction is known."""
        return base - value if self.higher is False else value - base


@dataclass(frozen=True)
class Prediction:
    """One kept answer, the reference it was scored against, and its own values of metrics."""

    client: str
    example: str
    text: str
    reference: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Scored:
    """The scores of one state on one group of clients."""

    clients: int
    examples: int
    mean: Mapping[str, float]
    categories: Mapping[str, Mapping[str, float]]
    rows: tuple[SingleScore, ...]
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class State:
    """One row of results.json. scores: by scope, "unseen" and "own", those that are there."""

    name: str
    ranks: str
    scores: Mapping[str, Scored]


@dataclass(frozen=True)
class Holder:
    """What one client holds. labels: label → examples."""

    id: str
    type: str
    examples: int
    labels: Mapping[str, int]


@dataclass(frozen=True)
class Partition:
    """Who holds what, as data.json has it."""

    by: str
    label: str
    clients: tuple[Holder, ...]
    unseen: tuple[Holder, ...]
    known: int


@dataclass(frozen=True)
class Class:
    """The clients of one class of devices: what was planned for one of them, and what came.

    planned: peak, training (of it, beside the base), seconds, down and up, of a round; empty where
    their ranks are their own. replies: of these clients, and the sums of their seconds (of
    training, on the machine that played the run) and bytes up. peak_bytes, cohort: as of a type of
    `runs.overview`.
    """

    clients: tuple[str, ...]
    memory: float
    why: str
    planned: Mapping[str, float]
    replies: int = 0
    seconds: float = 0.0
    bytes_up: int = 0
    peak_bytes: int | None = None
    cohort: int | None = None


@dataclass(frozen=True)
class ReportRun:
    """One run. label: unique on the page; arm: the same for runs that differ in the seed alone;
    base_model: its name, and how its weights are held.

    origin: equal for runs that began from the same, but for seeds; "" for the bare base model.
    higher: metric → whether more of it is better, as far as the run recorded it. passes: type →
    peak_bytes and cohort of the largest pass of its clients, as of `runs.overview`.
    """

    label: str
    arm: str
    folder: Path
    rule: str
    seed: int
    planned: int
    base_model: tuple[str, str]
    config: Mapping[str, Mapping[str, Any]]
    environment: Record
    data: Record
    parent: Record | None
    origin: str
    clients: Mapping[str, int]
    ranks: Mapping[str, str]
    higher: Mapping[str, bool]
    rounds: tuple[RoundRecord, ...]
    failed: tuple[Failed, ...]
    refused: tuple[Failed, ...]
    rested: tuple[Rested, ...]
    spectra: tuple[Spectrum, ...]
    states: tuple[State, ...]
    scored_round: int | None
    partition: Partition | None
    devices: Mapping[str, Class] = field(default_factory=dict)
    passes: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)

    def state(self, name: str) -> State | None:
        return next((state for state in self.states if state.name == name), None)

    def scored(self, state: str, scope: str) -> Scored | None:
        found = self.state(state)
        return None if found is None else found.scores.get(scope)


def differing_data(runs: Sequence[ReportRun]) -> list[str]:
    """Which of data, model and encoding are not the same in all runs that tell."""
    words = dict(zip(_FINGERPRINTS, ("data", "base model", "encoding of the data"), strict=True))
    values = {key: {str(run.data[key]) for run in runs if key in run.data} for key in _FINGERPRINTS}
    return [words[key] for key in _FINGERPRINTS if len(values[key]) > 1]


def measures(runs: Sequence[ReportRun], names: Sequence[str]) -> list[Measure]:
    """Each metric once, those of generated text before losses, otherwise in the order given."""
    higher = {name: better for run in runs for name, better in run.higher.items()}
    found = [Measure.of(name, higher) for name in dict.fromkeys(names)]
    return sorted(found, key=lambda m: (m.name != "rouge_l", m.higher is not True))
