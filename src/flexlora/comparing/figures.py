"""The plots of a comparison: the compared metric by arm, then as training goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean

from flexlora.comparing.budgets import arms_of
from flexlora.comparing.findings import Findings
from flexlora.comparing.sentences import PART_WORDS, state_words
from flexlora.comparing.statistics import interval
from flexlora.comparing.views import By, Curve, curves
from flexlora.report import charts
from flexlora.report.blocks import Figure, Table
from flexlora.report.common import legend, thinned

_AXES: Mapping[By, tuple[str, str, float]] = {
    "rounds": ("round", "round", 1.0),
    "bytes": ("MB sent", "bytes sent", 1e6),
    "simulated": ("simulated hours", "simulated hours", 3600.0),
}
"""View → its axis, its words in a title, and how much of it is one on the axis."""


def figures(findings: Findings) -> Iterator[Figure]:
    """All plots that what is finished allows."""
    first = by_arm(findings)
    if first is not None:
        yield first
    yield from _as_it_goes(findings)


def by_arm(findings: Findings) -> Figure | None:
    """What is compared: each arm's mean and its 95 % interval over seeds; None where none has any.

    Controls are grey: they bound the others, and are not what is asked about.
    """
    measure, asked = findings.measure, findings.settings
    found = findings.values(asked.part, asked.state)
    shown = [arm for arm in findings.arms if found.get(arm)]
    rows, cells = [], []
    for arm in shown:
        around = interval(list(found[arm].values()))
        assert around is not None
        ends = {"low": around.low, "high": around.high}
        aside = arm in findings.controls
        rows.append({"name": arm, "x": around.mean, **ends, "aside": aside})
        cells.append([arm, around.mean, around.low, around.high, around.n])
    if not shown:
        return None
    title = f"{measure.label} by arm"
    where = f"{PART_WORDS[asked.part]}, {state_words(asked.state)}"
    return Figure(
        title,
        f"{measure.heading} on {where}: mean and 95 % interval over seeds. Grey: controls.",
        charts.spans(rows, x=measure.axis, order=shown),
        Table.of(title, ["arm", measure.heading, "from", "to", "seeds"], cells),
    )


def _as_it_goes(findings: Findings) -> Iterator[Figure]:
    """A line an arm: means over its seeds, of the rounds that all of them scored."""
    measure, found = findings.measure, curves(findings.tidy, findings.measure.name)
    series = [arm for arm in findings.arms if arm in found]  # One colour each, in all figures.
    for view, (axis, words, _) in _AXES.items():
        rows, cells = [], []
        shown = arms_of(findings, view, found)
        for arm in (arm for arm in series if arm in shown):
            for x, y in thinned(_means(found[arm], view)):
                rows.append({"x": x, "y": y, "series": arm, "run": arm})
                cells.append([arm, x, y])
        if not rows:
            continue
        title = f"{measure.label} by {words}"
        yield Figure(
            title,
            f"{measure.heading} on {PART_WORDS['validation']}, means over the seeds of each arm.",
            charts.lines(rows, x=axis, y=measure.axis, series=series, whole=view == "rounds"),
            Table.of(title, ["arm", axis, measure.heading], cells),
            legend(series),
        )


def _means(seeds: Mapping[int, Curve], view: By) -> list[tuple[float, float]]:
    by_round = [{point.cost.rounds: point for point in curve.points} for curve in seeds.values()]
    common = sorted(set.intersection(*(set(points) for points in by_round)))
    scale = _AXES[view][2]
    return [
        (
            fmean(points[x].cost.by(view) for points in by_round) / scale,
            fmean(points[x].value for points in by_round),
        )
        for x in common
    ]
