"""What several sections need: the runs' arms as colours, words for scopes, fewer points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from flexlora.models.places import about
from flexlora.report.blocks import Key, Note, Table
from flexlora.report.charts import COLOURS, part_colour
from flexlora.report.runs import Measure, ReportRun, measures

POINTS = 250  # Points that one line has at most.
SCOPE_WORDS = {"unseen": "unseen examples", "own": "the training clients' own test parts"}

T = TypeVar("T")


def arms(runs: Sequence[ReportRun]) -> list[str]:
    """The arms in order; each has its colour on the whole page."""
    return list(dict.fromkeys(run.arm for run in runs))


def base_models(models: Iterable[tuple[str, str]]) -> list[Note]:
    """A sentence of their names and how their weights are held, with what is to be said beside
    figures of each; nothing of no model."""
    told = [
        f"{name} in {precision}{f' ({words})' if (words := about(name)) else ''}"
        for name, precision in dict.fromkeys(models)
    ]
    return [Note(f"Base model{'s' if len(told) > 1 else ''}: {'; '.join(told)}.")] if told else []


def legend(names: Sequence[str], dashed: Mapping[str, bool] | None = None) -> tuple[Key, ...]:
    """Colours in order, then line styles (name → dashed). One colour alone needs no legend."""
    colours = [Key(name, i % COLOURS) for i, name in enumerate(names)] if len(names) > 1 else []
    return (*colours, *(Key(name, -1, flag) for name, flag in (dashed or {}).items()))


def parts_legend(parts: Sequence[str]) -> tuple[Key, ...]:
    """What stacked bars are made of, in the colours that `charts` gives to parts."""
    return tuple(Key(part, part_colour(i, len(parts))) for i, part in enumerate(parts))


def thinned(values: Sequence[T], limit: int = POINTS) -> list[T]:
    """Every k-th value and the last, so that at most about `limit` are left."""
    step = -(-len(values) // limit) if values else 1
    kept = list(values[::step])
    return kept if not values or kept[-1] is values[-1] else [*kept, values[-1]]


def score_measures(runs: Sequence[ReportRun], scope: str) -> list[Measure]:
    """The metrics that some state of some run has a mean of in this scope."""
    found = [state.scores[scope] for run in runs for state in run.states if scope in state.scores]
    return measures(runs, [name for scored in found for name in scored.mean])


def leading(found: Sequence[Measure]) -> list[Measure]:
    """At most two that are plotted: the first, and loss or else the second."""
    rest = sorted(found[1:], key=lambda measure: measure.name != "loss")
    return [*found[:1], *rest[:1]]


def by_round(caption: str, columns: Mapping[str, Mapping[int, float | None]]) -> Table:
    """A row a round, a column a series; rounds are thinned to what a table may hold."""
    numbers = sorted({number for column in columns.values() for number in column})
    kept = thinned(numbers, 200)
    rows = [[n, *(column.get(n) for column in columns.values())] for n in kept]
    made = Table.of(caption, ["round", *columns], rows)
    if len(kept) == len(numbers):
        return made
    step = numbers.index(kept[1])
    left = f"Of {len(numbers):,} rounds one in {step} is here, and the last"
    return replace(made, more=f"{left}; metrics.jsonl has them all.")
