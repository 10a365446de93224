"""What `benchmarks/merge.py` shows: a table, and a plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WHOLE, ALGEBRA = "flexlora merge, files to file", "flexlora, algebra alone"
PEFT = "PEFT svd, algebra alone"
COLOURS = ["#1f6fb4", "#7fb2dd", "#c2571a"]
THEIR_MEMORY = "PEFT's memory beside base model and adapters, of one layer"


def table(document: dict[str, Any]) -> str:
    shape, exact = document["case"], document["float64"]
    lines = [
        f"{shape['adapters']} adapters of rank {shape['rank']} to one, {shape['layers']} layers of "
        f"{shape['size']} × {shape['size']}, float32, {document['environment']['threads']} threads",
        "",
        f"{'':31}{'seconds':>10}{'least–most':>20}{'faster':>10}{'extra MB':>10}  how",
    ]
    for row in document["rows"]:
        extra = "" if row["extra_bytes"] is None else f"{row['extra_bytes'] / 1e6:,.0f}"
        span = f"{min(row['each']):,.2f}–{max(row['each']):,.2f}"
        lines.append(
            f"{row['name']:31}{row['seconds']:10,.2f}{span:>20}{row['faster_than_peft']:9,.0f}×"
            f"{extra:>10}  {row['how']}"
        )
    lines += ["", f"extra MB: {THEIR_MEMORY}"]
    others = ", ".join(f"{cores:.1f}" for cores in document["cores_of_others"])
    lines += [f"cores busy with other processes, by repetition: {others}"]
    lines += ["", f"first layer against dense float64, σ_r/σ_r+1 = {exact['gap']:.3f}:"]
    for side, words in (("ours", "flexlora merge"), ("peft", "PEFT svd")):
        distance, excess = exact[f"{side}_distance"], exact[f"{side}_excess"]
        lines.append(f"{words:31}‖T − T₆₄‖/‖T₆₄‖ {distance:.1e}, excess error {excess:.1e}")
    return "\n".join(lines)


def draw(document: dict[str, Any], path: Path) -> None:
    """Seconds and extra memory of each side, on logarithmic axes, as SVG."""
    import altair as alt
    import vl_convert

    shape = document["case"]
    names = [row["name"] for row in document["rows"]]

    def dots(title: str, found: dict[str, list[float]], unit: str, labels: bool) -> alt.Chart:
        """The median of each, and a line from the least to the most."""
        values = [
            {
                "side": name,
                "value": statistics.median(found[name]),
                "low": min(found[name]),
                "high": max(found[name]),
                "text": f"{statistics.median(found[name]):,.{digits(found[name])}f} {unit}",
            }
            for name in names
            if name in found
        ]
        ends = [min(x["low"] for x in values) / 2, max(x["high"] for x in values) * 3]
        powers = [10.0**x for x in range(-3, 7) if ends[0] <= 10.0**x <= ends[1]]
        across = alt.Axis(values=powers, format=",~r", domain=False, ticks=False)
        axis = alt.Axis(labelLimit=300, domain=False, ticks=False, labels=labels, grid=True)
        base = alt.Chart(alt.Data(values=values), width=260, height=110).encode(
            alt.X(
                "value:Q",
                title=title,
                axis=across,
                scale=alt.Scale(type="log", domain=ends, nice=False),
            ),
            alt.Y("side:N", title=None, sort=names, scale=alt.Scale(domain=names), axis=axis),
        )
        point = base.mark_point(filled=True, size=90, opacity=1).encode(
            alt.Color("side:N", legend=None, scale=alt.Scale(domain=names, range=COLOURS))
        )
        line = base.mark_rule(opacity=0.6, size=2).encode(
            alt.X("low:Q"),
            alt.X2("high:Q"),
            alt.Color("side:N", legend=None, scale=alt.Scale(domain=names, range=COLOURS)),
        )
        return line + point + base.mark_text(align="left", dy=-12).encode(text="text:N")

    rows = document["rows"]
    seconds = {row["name"]: row["each"] for row in rows}
    megabytes = {row["name"]: [row["extra_bytes"] / 1e6] for row in rows if row["extra_bytes"]}
    chart = alt.hconcat(
        dots("seconds, median and range", seconds, "s", True),
        dots("extra MB", megabytes, "MB", False),
        title=alt.Title(
            f"{shape['adapters']} adapters of rank {shape['rank']} merged into one",
            subtitle=[
                f"{shape['layers']} layers of {shape['size']} × {shape['size']}; {THEIR_MEMORY}",
                *[f"{row['name']}: {row['how']}" for row in rows if row["how"] != "measured"],
            ],
            fontSize=14,
            anchor="start",
        ),
        config={"view": {"stroke": None}, "background": "white"},
    )
    path.write_text(vl_convert.vegalite_to_svg(chart.to_dict()))


def digits(values: Sequence[float]) -> int:
    """Decimals that leave about three figures."""
    return max(0, 2 - math.floor(math.log10(statistics.median(values))))
