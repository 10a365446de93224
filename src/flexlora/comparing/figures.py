"""The plots of a comparison: the compared metric as training goes, by round and by bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean

from flexlora.comparing.findings import Findings
from flexlora.comparing.sentences import PART_WORDS
from flexlora.comparing.views import By, Curve, curves
from flexlora.report import charts
from flexlora.report.blocks import Figure, Table
from flexlora.report.common import legend, thinned

_AXES: Mapping[By, str] = {"rounds": "round", "bytes": "MB sent"}


def figures(findings: Findings) -> Iterator[Figure]:
    """A line an arm: means over its seeds, of the rounds that all of them scored."""
    measure, found = findings.measure, curves(findings.tidy, findings.measure.name)
    series = [arm for arm in findings.arms if arm in found]  # One colour each, in all figures.
    for view, axis in _AXES.items():
        rows, cells = [], []
        shown = findings.tidy.federated if view == "bytes" else set(found)
        for arm in (arm for arm in series if arm in shown):
            for x, y in thinned(_means(found[arm], view)):
                rows.append({"x": x, "y": y, "series": arm, "run": arm})
                cells.append([arm, x, y])
        if not rows:
            continue
        title = f"{measure.label} by {'round' if view == 'rounds' else 'bytes sent'}"
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
    scale = 1e6 if view == "bytes" else 1
    return [
        (
            fmean(points[x].cost.by(view) for points in by_round) / scale,
            fmean(points[x].value for points in by_round),
        )
        for x in common
    ]
