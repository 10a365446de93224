"""What cohort.py shows: a table, the JSON that keeps every case's last run, and a plot of it."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flexlora.formats.atomic import atomic_write

Row = dict[str, Any]
_WIDTH = 120
# Text is measured in a narrower font than many viewers have: labels would be cut at the edges.
_PADDING = {"left": 20, "right": 40, "top": 8, "bottom": 8}


def update(out: Path, name: str, measured: Row) -> None:
    """Put one case into the JSON; what else is there stays."""
    cases: Row = json.loads(out.read_text())["cases"] if out.is_file() else {}
    document = {"cases": dict(sorted({**cases, name: measured}.items()))}
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def show(measured: Row) -> None:
    console = Console(width=_WIDTH)
    console.print(_table(measured))
    for row in measured["refused"]:
        console.print(
            f"{row['procedure']}: no row. Its mean loss is {row['loss']:.6g}, off the usual "
            f"loop's by {row['loss_off']:.1e}."
        )
    rates = measured["product_rates"]
    console.print(
        f"{_where(measured)}. The machine's own products between the runs: "
        f"{statistics.median(rates) / 1e9:,.0f} GFLOP/s, from {min(rates) / 1e9:,.0f} to "
        f"{max(rates) / 1e9:,.0f}."
    )
    chosen = measured["chosen"]
    if (over := chosen["over_one_by_one"]) is not None:
        console.print(
            f"Chosen before the runs: {chosen['clients']} at once, in {over:.2f} × the time of one "
            "by one."
        )
    if more := measured["one_more"]:
        console.print(
            f"One client more, from {more['between'][0]} to {more['between'][1]} at once: "
            f"{_mb(more['bytes'])} MB, {more['ratio']:.2f} × what it should be: "
            f"{_mb(more['state_bytes'])} MB of weights, gradient and moments, and "
            f"{_mb(more['activation_bytes'])} MB of activations."
        )


def _table(measured: Row) -> Table:
    steps = f", at most {measured['steps']} steps" if measured["steps"] else ""
    title = (
        f"{measured['name']} on {measured['device']}: {measured['clients']} clients × "
        f"{measured['examples']} examples{steps}, {measured['tokens']:,} tokens "
        f"({measured['tokens_of_an_example']:.0f} an example), rank {measured['rank']}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    heads = ("tokens/s", "seconds", "× usual", "× in place", "extra MB", "of usual", "loss", "off")
    for head in heads:
        table.add_column(head, justify="right")
    for row in measured["rows"]:
        extra, copies = row["extra_bytes"], row["faster_than_copies"]
        table.add_row(
            row["procedure"] + (" ★" if row["best"] else ""),
            f"{row['tokens_per_second']:,.0f}",
            f"{row['seconds']:.3g}",
            f"{row['faster']:.2f}",
            "" if copies is None else f"{copies:.2f}",
            "" if extra is None else _mb(extra),
            "" if extra is None else f"{row['memory_share']:.2f}",
            f"{row['loss']:.5f}",
            f"{row['loss_off']:.0e}",
            style="bold" if row["best"] else None,
        )
    return table


def _mb(count: float) -> str:
    return f"{count / 1e6:,.1f}" if abs(count) < 100e6 else f"{count / 1e6:,.0f}"


def _where(measured: Row) -> str:
    around = measured["environment"]
    if measured["device"] != "cpu":
        return str(around["gpu"])
    return f"{around['cpu']}, {around['threads']} threads"


def plot(out: Path) -> None:
    """Speed over the usual loop's by clients at once, beside the JSON."""
    try:
        import altair as alt
        import vl_convert
    except ImportError as error:
        print(f"no picture: {error}; the extra flexlora[report] has what it needs")
        return

    cases = json.loads(out.read_text())["cases"].values()
    values = [
        {
            "panel": f"{case['model']} on {case['device']}, micro-batch {case['batch']}",
            "processes": "several" if "workers" in row["procedure"] else "one",
            "tokens": case["lengths"] + (" tokens" if case["lengths"].isdecimal() else ""),
            "clients": row["at_once"],
            "speed": row["faster"],
            "best": row["best"],
        }
        for case in cases
        for row in case["rows"]
        if row["procedure"].startswith("ours")
    ]
    if not values:
        return
    powers = [2**x for x in range(7)]
    lines = alt.Chart().encode(
        alt.X(
            "clients:Q",
            title="clients at once in each process",
            scale=alt.Scale(type="log", base=2, domain=[1, 64]),
            axis=alt.Axis(values=powers, grid=False),
        ),
        alt.Y("speed:Q", title="speed over the usual loop's", scale=alt.Scale(zero=True)),
        alt.Color("tokens:N", title="lengths"),
    )
    dashes = alt.StrokeDash(
        "processes:N",
        scale=alt.Scale(domain=["one", "several"], range=[[1, 0], [5, 3]]),
        legend=None,
    )
    level = alt.Chart().mark_rule(color="#999999", strokeDash=[4, 3]).encode(y=alt.datum(1.0))
    best = lines.transform_filter("datum.best").mark_point(filled=True, size=80, opacity=1)
    chart = (
        alt.layer(
            level,
            lines.mark_line(point=alt.OverlayMarkDef(size=18)).encode(dashes),
            best,
            data=alt.Data(values=values),
        )
        .properties(width=260, height=180)
        .facet(alt.Facet("panel:N", title=None), columns=2)
        .properties(
            title=alt.Title(
                "Training a cohort in one forward pass, against one client after another",
                subtitle=[
                    "Median speed, tokens a second without padding; the best of each is large",
                    "Dashed: several processes that share the threads",
                ],
                anchor="start",
            )
        )
        .configure(background="white", padding=_PADDING)
    )
    atomic_write(out.with_suffix(".svg"), vl_convert.vegalite_to_svg(chart.to_dict()))
