"""How often which value: one histogram, or one for each run under the other, on one axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from flexlora.report.charts import DASH, Row, colour_of, spec_of

Bin = tuple[str, float, float, int]
"""Name, from, to (below), how many."""

_ROW = 64  # Pixels that a run has where there are several.
_ALIKE = 1e-6  # Of the largest value: what is shown apart.
_TALLEST = 0.6  # Of them, under its name.


def histogram(
    values: Mapping[str, Sequence[float]],
    *,
    x: str,
    y: str,
    series: Sequence[str],
    of: Mapping[str, str] | None = None,
    whole: bool,
) -> tuple[dict[str, Any], list[Bin]]:
    """The specification and its bins, which are common to all names.

    Several names have a row each, in their order, with bars of one scale for all. series: what has
    colours; of: name → its series (default: the name itself). whole: the values are counts;
    otherwise they are differences, and zero is marked.
    """
    edges, bins = binned(values, 1.0 if whole else 0.0)
    # Bins of one count each stand over that count, not to the right of it.
    back = 0.5 if whole and edges[1] - edges[0] == 1 else 0.0
    axis = alt.Axis(format=",~r", tickMinStep=1) if whole else alt.Axis(format=",~r")
    across = alt.X("x:Q", title=x, axis=axis, scale=alt.Scale(zero=False, nice=not back))
    tips = [alt.Tooltip("name:N", title="run"), alt.Tooltip("x:Q", title="from", format="~g")]
    tips += [alt.Tooltip("x2:Q", title="to", format="~g"), alt.Tooltip("n:Q", title=y)]
    alone = len(values) == 1
    tallest = max(n for *_, n in bins)
    floors = {name: len(values) - 1 - place for place, name in enumerate(values)}
    rows: list[Row] = []
    for name, low, high, n in bins:
        floor = 0.0 if alone else float(floors[name])
        top = float(n) if alone else floor + _TALLEST * n / tallest
        row = {
            "name": name,
            "series": (of or {}).get(name, name),
            "x": low - back,
            "x2": high - back,
        }
        if n or alone:
            rows.append({**row, "n": n, "low": floor, "high": top})
    if alone:
        up = alt.Y("low:Q", title=y, axis=alt.Axis(format=",d", tickMinStep=1))
    else:
        scale = alt.Scale(domain=[0, len(values)], nice=False)
        up = alt.Y("low:Q", title=None, axis=None, scale=scale)
    bars = alt.Chart().mark_rect(stroke="var(--page)", strokeWidth=1)
    layers = [
        bars.encode(x=across, x2="x2:Q", y=up, y2="high:Q", color=colour_of(series), tooltip=tips)
    ]
    if not alone:
        layers += _named_rows(floors, edges[0] - back, edges[-1] - back, across, up)
    if not whole and edges[0] < 0 < edges[-1]:
        rule = alt.Chart(alt.InlineData(values=[{"x": 0}])).mark_rule(
            color="var(--ink)", strokeDash=DASH
        )
        layers.append(rule.encode(x="x:Q"))
    height = 200 if alone else _ROW * len(values)
    return spec_of(alt.layer(*layers), rows, height=height), bins


def binned(
    values: Mapping[str, Sequence[float]], least: float
) -> tuple[Sequence[float], list[Bin]]:
    """Edges, at least so far apart, and what lies between them: each value in one bin."""
    every = [value for found in values.values() for value in found]
    edges = _edges(min(every), max(every), least)
    return edges, [
        (name, low, high, sum(low <= v < high for v in found))
        for name, found in values.items()
        for low, high in itertools.pairwise(edges)
    ]


def _named_rows(
    floors: Mapping[str, int], first: float, last: float, across: alt.X, up: alt.Y
) -> list[alt.Chart]:
    """Under every run's bars a line, above them its name."""
    places = [
        {"name": name, "low": floor, "high": floor + 0.88, "x": first, "x2": last}
        for name, floor in floors.items()
    ]
    chart = alt.Chart(alt.InlineData(values=places))
    line = chart.mark_rule(color="var(--line)").encode(x=across, x2="x2:Q", y=up)
    name = chart.mark_text(
        align="left", baseline="top", fontSize=12, color="var(--ink)", limit=300
    ).encode(x=alt.value(2), y=alt.Y("high:Q", axis=None), text="name:N")
    return [line, name]


def _edges(low: float, high: float, least: float) -> list[float]:
    """About 24 round steps of at least `least` from at or below `low` to above `high`.

    Steps are no finer than the ten digits of an edge: what differs by rounding is in one bin.
    """
    raw = max(high - low, _ALIKE * max(abs(low), abs(high))) / 24 or 1.0
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw * (1 - 1e-9))
    step = max(step, least)
    first, last = math.floor(low / step), math.floor(high / step) + 1
    edges = [float(f"{i * step:.10g}") for i in range(first, last + 1)]
    if high >= edges[-1]:  # It stands on that edge, up to rounding.
        edges.append(float(f"{(last + 1) * step:.10g}"))
    return edges if edges[0] <= low else [float(f"{(first - 1) * step:.10g}"), *edges]
