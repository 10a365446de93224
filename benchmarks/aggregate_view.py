"""What aggregate.py shows: a table, the JSON that keeps every case's last run, and a plot of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flexlora.formats.atomic import atomic_write

Row = dict[str, Any]
_WIDTH = 120
# Text is measured in a narrower font than many viewers have: labels would be cut at the edges.
_PADDING = {"left": 50, "right": 20, "top": 8, "bottom": 8}
_COLOURS = {
    "original": "#222222",
    "ours": "#d1495b",
    "exact": "#2e86ab",
    "formed": "#e9a03b",
    "implicit": "#4f9d69",
}


def update(out: Path, kind: str, name: str, measured: Row) -> None:
    """Put one case, or one round, into the JSON; what else is there stays."""
    document: Row = {"cases": {}, "rounds": {}}
    if out.is_file():
        document |= json.loads(out.read_text())
    document[kind] = dict(sorted({**document[kind], name: measured}.items()))
    atomic_write(out, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def show(measured: Row) -> None:
    console = Console(width=_WIDTH)
    if "rows" in measured:
        console.print(_case(measured))
        for row in measured["rows"]:
            if "how" in row:
                console.print(f"{row['procedure']}: {row['how']}.")
        if measured["note"]:
            console.print(measured["note"])
    else:
        console.print(_round(measured))


def _case(measured: Row) -> Table:
    gap = f", gap {measured['gap']:.3g}" if measured["gap"] else ""
    title = (
        f"{measured['name']} on {measured['device']}: Σr = {measured['width']:,}, rank "
        f"{measured['rank']}{gap}; floor {measured['floor_seconds']:.3g} s at "
        f"{measured['product_rate'] / 1e9:,.0f} GFLOP/s"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("procedure", no_wrap=True)
    heads = ("seconds", "× original", "extra MB", "of original", "excess", "distance", "× floor")
    for head in heads:
        table.add_column(head, justify="right")
    table.add_column("certificate", no_wrap=True)
    for row in measured["rows"]:
        extra, known = row["extra_bytes"], row.get("certificate")
        table.add_row(
            row["procedure"] + (f" → {row['path']}" if row["procedure"].startswith("ours") else ""),
            f"{row['seconds']:.3g}",
            f"{row['faster']:.3g}",
            "" if extra is None else f"{extra / 1e6:,.0f}",
            "" if extra is None else f"{row['memory_share']:.3f}",
            _small(row.get("excess")),
            _small(row.get("distance")),
            f"{row['floors']:.2f}" if "floors" in row else "",
            known["kind"] if known else "",
        )
    return table


def _small(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"


def _round(measured: Row) -> Table:
    """Every figure of the round by name; bytes as MB."""
    title = f"whole round {measured['name']}: {measured['layers']} layers"
    table = Table(title=title, title_justify="left")
    sides = [side for side in ("ours", "original") if side in measured]
    for head in ("", *sides):
        table.add_column(head, justify="right" if head else "left")
    for name in dict.fromkeys(name for side in sides for name in measured[side]):
        shown = name.replace("bytes", "MB").replace("_", " ")
        table.add_row(shown, *(_figure(name, measured[side].get(name)) for side in sides))
    for name in ("faster", "faster_with_collecting", "memory_share", "error_share"):
        if measured.get(name) is not None:
            table.add_row(name.replace("_", " "), f"{measured[name]:.4g}")
    return table


def _figure(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{count} {kind}" for kind, count in value.items())
    return f"{value / 1e6:,.1f}" if name.endswith("bytes") else f"{value:.4g}"


def _label(case: Row) -> str:
    where = "" if case["device"] == "cpu" else f", {case['device']}"
    return f"{case['m']} × {case['n']}, {case['clients']} clients, {case['data']}{where}"


def plot(out: Path) -> None:
    """Seconds of every procedure in every case, beside the JSON."""
    try:
        import altair as alt
        import vl_convert
    except ImportError as error:
        print(f"no picture: {error}; the extra flexlora[report] has what it needs")
        return

    cases = sorted(
        json.loads(out.read_text())["cases"].values(),
        key=lambda case: (case["device"], case["m"] * case["n"], case["clients"], case["name"]),
    )
    values = [
        {
            "case": _label(case),
            "path": row["procedure"],
            "seconds": row["seconds"],
        }
        for case in cases
        for row in case["rows"]
        if "floors" in row
    ]
    if not values:
        return
    names = list(_COLOURS)
    axis = alt.Axis(labelLimit=300, grid=True, domain=False, ticks=False)
    chart = (
        alt.Chart(alt.Data(values=values), width=520, height=alt.Step(11))
        .mark_point(size=45, opacity=1, strokeWidth=1.8)
        .encode(
            alt.X("seconds:Q", title="seconds", scale=alt.Scale(type="log")),
            alt.Y("case:N", title=None, axis=axis, sort=[_label(case) for case in cases]),
            alt.YOffset("path:N", scale=alt.Scale(domain=names)),
            alt.Color(
                "path:N",
                title="procedure",
                scale=alt.Scale(domain=names, range=[_COLOURS[name] for name in names]),
            ),
        )
        .properties(title="Seconds to combine one layer and read out every distinct rank")
        .configure(background="white", padding=_PADDING)
        .configure_view(stroke=None)
        .configure_title(anchor="start")
    )
    atomic_write(out.with_suffix(".svg"), vl_convert.vegalite_to_svg(chart.to_dict()))
