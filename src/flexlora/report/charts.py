"""The few kinds of plots that the report has, as Vega-Lite specifications made with Altair.

Colours are CSS variables of the page (--c0 … --c7), so that light and dark need no second drawing;
legends are HTML beside the figure, so that they wrap on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

COLOURS = 8
Row = Mapping[str, Any]
DASH = [4, 3]
_FEW = 8

CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "gridColor": "var(--grid)",
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelPadding": 5,
        "tickSize": 4,
    },
    "axisY": {"domain": False, "ticks": False, "tickCount": 5},
    "axisX": {"grid": False, "labelFlush": False, "tickCount": 8},
    "line": {"strokeWidth": 2, "strokeCap": "round", "strokeJoin": "round"},
    "bar": {"cornerRadius": 1.5},
}


def part_colour(index: int, parts: int) -> int:
    """Its place in the palette: from the other end than runs, so that no part looks like a run."""
    return COLOURS - 1 - index % COLOURS if parts > 1 else 0


def lines(
    rows: Sequence[Row],
    *,
    x: str,
    y: str,
    series: Sequence[str],
    kinds: Sequence[str] = ("",),
    whole: bool = True,
    log: bool = False,
    band: bool = False,
    zero: bool = False,
) -> dict[str, Any]:
    """Lines over x. Rows: x, y, series, run (one line each), kind (dashed from the second on).

    marked: true in a row puts a ring there; band: rows have low and high too; zero: y begins there.
    """
    values = [{"kind": "", "marked": False, **row} for row in rows]
    axis = _counting([row["x"] for row in rows]) if whole else alt.Axis(format="~s")
    across = alt.X("x:Q", title=x, axis=axis, scale=alt.Scale(nice=False, zero=False))
    every = [
        row[name] for row in rows for name in ("y", "low", "high") if row.get(name) is not None
    ]
    scale, ticks = _log_scale(every) if log else (_scale(every, zero), alt.Axis(format=",~r"))
    up = alt.Y("y:Q", title=y, scale=scale, axis=ticks)
    colour = colour_of(series)
    base = alt.Chart().encode(x=across, y=up, color=colour, detail="run:N")
    tips = [alt.Tooltip("run:N", title="run"), alt.Tooltip("x:Q", title=x)]
    tips.append(alt.Tooltip("y:Q", title=y, format=".4~r"))
    dashes = [[1, 0], *[DASH] * (len(kinds) - 1)]
    dash = alt.StrokeDash("kind:N", scale=alt.Scale(domain=list(kinds), range=dashes), legend=None)
    layers = []
    if band:
        fill = alt.Chart().mark_area(opacity=0.16, strokeWidth=0)
        low = alt.Y("low:Q", title=y)
        layers.append(fill.encode(x=across, y=low, y2="high:Q", color=colour, detail="run:N"))
    layers.append(base.mark_line().encode(strokeDash=dash))
    shown = len(values) <= 120
    points = base.mark_point(size=30 if shown else 60, filled=True, opacity=1)
    ringed = any(row["marked"] for row in values)
    if shown or ringed:
        points = points if shown else points.transform_filter("datum.marked")
        layers.append(points.encode(tooltip=tips))
    if ringed:
        rings = base.mark_point(size=130, filled=False, strokeWidth=2)
        layers.append(rings.transform_filter("datum.marked"))
    return spec_of(alt.layer(*layers), values, height=230)


def dots(
    rows: Sequence[Row], *, x: str, order: Sequence[str], series: Sequence[str]
) -> dict[str, Any]:
    """A row per name: a dot per series at x, joined to the base's tick.

    Rows: name, x, base (or None), series.
    """
    up = _names(order)
    base = alt.Chart().encode(y=up)
    colour = colour_of(series)
    across = alt.X("x:Q", title=x, scale=alt.Scale(zero=True), axis=alt.Axis(grid=True))
    tips = [
        alt.Tooltip("name:N", title="name"),
        alt.Tooltip("series:N", title="run"),
        alt.Tooltip("x:Q", title=x, format=".4~r"),
        alt.Tooltip("base:Q", title="base", format=".4~r"),
    ]
    joined = base.mark_rule(strokeWidth=2, opacity=0.45).encode(x=across, x2="base:Q", color=colour)
    if len(rows) > len(order):  # Several dots a row: one grey line for all, or the last hides all.
        joined = base.mark_rule(strokeWidth=1.5, color="var(--line)").encode(x=across, x2="base:Q")
    ends = base.mark_point(filled=True, size=75, opacity=1).encode(
        x=across, color=colour, tooltip=tips
    )
    grey = base.mark_tick(thickness=2.5, size=13, color="var(--muted)", opacity=1)
    layers = [joined, grey.encode(x=alt.X("base:Q", title=x)), ends]
    if all(row.get("base") is None for row in rows):
        layers = [ends]
    return spec_of(alt.layer(*layers), rows, height=26 * len(order))


def spans(rows: Sequence[Row], *, x: str, order: Sequence[str]) -> dict[str, Any]:
    """A row per name: a dot at x with its interval from low to high, grey where it is `aside`.

    Rows: name, x, low, high (both None where there is no interval), aside.
    """
    across = alt.X("x:Q", title=x, scale=alt.Scale(zero=False), axis=alt.Axis(grid=True))
    colour = alt.Color(
        "aside:N",
        scale=alt.Scale(domain=[False, True], range=["var(--c0)", "var(--c7)"]),
        legend=None,
    )
    base = alt.Chart().encode(y=_names(order), color=colour)
    span = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=x), x2="high:Q")
    tips = [
        alt.Tooltip("name:N", title="name"),
        alt.Tooltip("x:Q", title=x, format=".4~r"),
        alt.Tooltip("low:Q", title="from", format=".4~r"),
        alt.Tooltip("high:Q", title="to", format=".4~r"),
    ]
    dot = base.mark_point(filled=True, size=75, opacity=1).encode(x=across, tooltip=tips)
    return spec_of(alt.layer(span, dot), rows, height=26 * len(order))


def stacked(
    rows: Sequence[Row], *, x: str, order: Sequence[str], parts: Sequence[str]
) -> dict[str, Any]:
    """A horizontal bar per name, of parts. Rows: name, part, x (from zero)."""
    ranked = [{**row, "at": list(parts).index(row["part"])} for row in rows]
    bars = alt.Chart().mark_bar(stroke="var(--page)", strokeWidth=1)
    chart = bars.encode(
        y=_names(order),
        x=alt.X("x:Q", title=x, axis=alt.Axis(grid=True, format=",~r")),
        color=colour_of(parts, "part"),
        order="at:O",
        tooltip=[
            alt.Tooltip("name:N", title="name"),
            alt.Tooltip("part:N", title="part"),
            alt.Tooltip("x:Q", title=x, format=".4~s"),
        ],
    )
    return spec_of(chart, ranked, height=26 * len(order))


def columns(rows: Sequence[Row], *, x: str, y: str, parts: Sequence[str]) -> dict[str, Any]:
    """Stacked bars from x to x2. Rows: x, x2, part, y; those of one x in the order of `parts`."""
    tops: dict[float, float] = {}
    stacks = []
    for row in rows:
        low = tops.get(row["x"], 0)
        tops[row["x"]] = low + row["y"]
        stacks.append({**row, "low": low, "high": low + row["y"]})
    chart = alt.Chart().mark_rect(stroke="var(--page)", strokeWidth=0.5)
    chart = chart.encode(
        x=alt.X(
            "x:Q", title=x, axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(nice=False)
        ),
        x2="x2:Q",
        y=alt.Y("low:Q", title=y, axis=alt.Axis(format=",d", tickMinStep=1)),
        y2="high:Q",
        color=colour_of(parts, "part"),
        tooltip=[
            alt.Tooltip("x:Q", title=x),
            alt.Tooltip("part:N", title="part"),
            alt.Tooltip("y:Q", title=y),
        ],
    )
    return spec_of(chart, stacks, height=200)


def heat(
    rows: Sequence[Row], *, names: Sequence[str], labels: Sequence[str], share: str
) -> dict[str, Any]:
    """A square per name and label, darker for a larger share. Rows: name, label, x in 0 … 1, n."""
    chart = alt.Chart().mark_rect(color="var(--c0)", stroke="var(--page)", strokeWidth=1)
    chart = chart.encode(
        y=_names(names),
        x=alt.X(
            "label:N",
            sort=list(labels),
            title=None,
            axis=alt.Axis(labelAngle=-45, labelLimit=130, orient="bottom"),
        ),
        opacity=alt.Opacity(
            "x:Q", scale=alt.Scale(domain=[0, 1], range=[0.04, 1]), legend=None, title=share
        ),
        tooltip=[
            alt.Tooltip("name:N", title="client"),
            alt.Tooltip("label:N", title="label"),
            alt.Tooltip("x:Q", title=share, format=".0%"),
            alt.Tooltip("n:Q", title="examples"),
        ],
    )
    return spec_of(chart, rows, height=20 * len(names))


def _counting(values: Sequence[float]) -> alt.Axis:
    """Whole numbers: each of a few by itself, for the library would set ticks at halves."""
    if values and max(values) - min(values) < _FEW:
        return alt.Axis(format="d", values=list(range(int(min(values)), int(max(values)) + 1)))
    return alt.Axis(format="d", tickMinStep=1)


def _scale(values: Sequence[float], zero: bool) -> alt.Scale:
    """One value alone stands in the middle of a tenth of itself: an axis needs a length."""
    if not values or zero or min(values) < max(values):
        return alt.Scale(zero=zero)
    around = abs(values[0]) / 20 or 1.0
    return alt.Scale(domain=[values[0] - around, values[0] + around], zero=False, nice=False)


def _log_scale(values: Sequence[float]) -> tuple[alt.Scale, alt.Axis]:
    """Grid lines at powers of ten, and at 2 and 5 of them where there are few."""
    powers = range(math.floor(math.log10(min(values, default=1.0))), 1)
    steps = (1, 2, 5) if len(powers) <= 3 else (1,)
    ticks = [float(f"{step * 10.0**power:.3g}") for power in powers for step in steps]
    return alt.Scale(type="log", nice=False), alt.Axis(values=ticks, format="~g")


def _names(order: Sequence[str]) -> alt.Y:
    return alt.Y(
        "name:N", sort=list(order), title=None, axis=alt.Axis(labelColor="var(--ink)", grid=False)
    )


def colour_of(series: Sequence[str], field: str = "series") -> alt.Color:
    """The page's colours for these names, in order."""
    size = len(series)
    places = [part_colour(i, size) if field == "part" else i % COLOURS for i in range(size)]
    scale = alt.Scale(domain=list(series), range=[f"var(--c{place})" for place in places])
    return alt.Color(f"{field}:N", scale=scale, legend=None, title=field)


def spec_of(chart: alt.TopLevelMixin, rows: Sequence[Row], height: int) -> dict[str, Any]:
    """The chart as plain values, as wide as its place, all of its layers on these rows."""
    made: dict[str, Any] = chart.to_dict(validate=False)
    made.pop("config", None)
    for layer in (made, *made.get("layer", ())):
        if layer.get("data") == {"name": "empty"}:  # What Altair writes for a chart without data.
            del layer["data"]
    made["data"] = {"values": [_short(row) for row in rows]}
    autosize = {"type": "fit-x", "contains": "padding"}
    return made | {"width": "container", "height": height, "autosize": autosize}


def _short(row: Row) -> dict[str, Any]:
    """Five digits are more than a screen shows. What is not finite makes a gap."""
    return {
        name: (float(f"{x:.5g}") if math.isfinite(x) else None) if isinstance(x, float) else x
        for name, x in row.items()
    }
