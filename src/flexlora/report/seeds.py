"""Runs that differ in the seed alone, side by side: means over seeds, and who is best on each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from flexlora.report.blocks import Mark, Table, plain
from flexlora.report.common import SCOPE_WORDS, arms
from flexlora.report.runs import Measure, ReportRun
from flexlora.runs.results import FULL

_Values = Mapping[int, float]  # Seed → the mean of its runs, which is mostly one.


def over_seeds(runs: Sequence[ReportRun], scope: str, found: Sequence[Measure]) -> Table:
    """A row an arm; an arm is marked best where it is best on every seed, the same for all arms.

    Several runs of one arm and seed count as one, by their mean: else a seed that was played
    twice would count twice.
    """
    scored = {
        arm: [run for run in runs if run.arm == arm and run.scored(FULL, scope)]
        for arm in arms(runs)
    }
    again = any(len({run.seed for run in of}) < len(of) for of in scored.values())
    columns = [_column({a: _values(of, scope, m) for a, of in scored.items()}, m) for m in found]
    rows = [
        [arm, len(of), *([len({run.seed for run in of})] if again else []), *cells]
        for (arm, of), *cells in zip(scored.items(), *columns, strict=True)
    ]
    caption = (
        f"Mean ± standard deviation over seeds, full state, {SCOPE_WORDS[scope]}; marked: best on "
        "every seed"
    )
    if again:
        caption += "; runs of one seed count as their mean"
    names = ["runs that differ in the seed alone", "runs", *(["seeds"] if again else [])]
    return Table.of(caption, names + [m.heading for m in found], rows)


def _values(runs: Sequence[ReportRun], scope: str, measure: Measure) -> _Values:
    """Of the seeds all runs of which have a value."""
    by_seed: dict[int, list[float | None]] = {}
    for run in runs:
        scored = run.scored(FULL, scope)
        value = None if scored is None else scored.mean.get(measure.name)
        by_seed.setdefault(run.seed, []).append(value)
    return {
        seed: statistics.fmean(known)
        for seed, values in by_seed.items()
        if len(known := [value for value in values if value is not None]) == len(values)
    }


def _column(by_arm: Mapping[str, _Values], measure: Measure) -> list[Mark | None]:
    seeds = {tuple(sorted(values)) for values in by_arm.values()}
    fair = len(by_arm) > 1 and len(seeds) == 1 and () not in seeds and measure.higher is not None
    return [
        _cell(values, measure, best=fair and _wins(arm, by_arm, measure)) if values else None
        for arm, values in by_arm.items()
    ]


def _wins(arm: str, by_arm: Mapping[str, _Values], measure: Measure) -> bool:
    """Better than every other arm on every seed: seeds differ in their data as arms do not."""
    return all(
        measure.gain(value, other[seed]) > 0
        for name, other in by_arm.items()
        if name != arm
        for seed, value in by_arm[arm].items()
    )


def _cell(values: _Values, measure: Measure, *, best: bool) -> Mark:
    mean = statistics.fmean(values.values())
    text = plain(mean, measure.digits)
    if len(values) > 1:
        text += f" ± {plain(statistics.stdev(values.values()), measure.digits)}"
    return Mark(mean, text, best)
