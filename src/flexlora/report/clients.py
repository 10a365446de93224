"""Who gains and who loses: scores by category and by client, as differences to the base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flexlora.formats.words import count
from flexlora.report import charts
from flexlora.report.blocks import Block, Figure, Heading, Mark, Note, Section, Table, signed
from flexlora.report.common import SCOPE_WORDS, arms, leading, legend, score_measures
from flexlora.report.histograms import histogram
from flexlora.report.runs import SCOPES, Measure, ReportRun, Scored
from flexlora.runs.results import BASE, FULL

CATEGORIES = 30  # Categories that a figure shows at most.
WORST = 50  # Clients that a table shows at most.


def clients(runs: Sequence[ReportRun]) -> Section:
    blocks: list[Block] = []
    for scope in SCOPES:
        found = score_measures(runs, scope)
        scored = [run for run in runs if run.scored(FULL, scope)]
        if not found or not scored:
            continue
        blocks.append(Heading(SCOPE_WORDS[scope][0].upper() + SCOPE_WORDS[scope][1:]))
        for measure in leading(found):
            blocks += _categories(scored, scope, measure, arms(runs))
        for measure in leading(found):
            blocks += _spread(scored, scope, measure, arms(runs))
        blocks += [_worst(run, scope, found, folded=len(runs) > 1) for run in scored]
    if not blocks:
        blocks.append(Note("There are no final scores by category and client."))
    return Section("clients", "By category and client", tuple(blocks))


def _categories(
    runs: Sequence[ReportRun], scope: str, measure: Measure, series: Sequence[str]
) -> list[Block]:
    rows: list[dict[str, Any]] = []
    for run in runs:
        full, base = run.scored(FULL, scope), run.scored(BASE, scope)
        assert full is not None
        for name, values in full.categories.items():
            if measure.name in values:
                before = base.categories.get(name, {}).get(measure.name) if base else None
                row = {"name": name, "run": run.label, "series": run.arm}
                rows.append(row | {"x": values[measure.name], "base": before})
    names = _by_gain(rows, measure)
    if len(names) < 2:
        return []
    title = f"{measure.label} by category, {SCOPE_WORDS[scope]}"
    table = Table.of(
        title,
        ["category", "run", "base", measure.heading, "difference"],
        [
            [
                r["name"],
                r["run"],
                r["base"],
                r["x"],
                _change(r["x"], r["base"], measure),
            ]
            for name in names
            for r in rows
            if r["name"] == name
        ],
        digits={"base": measure.digits, measure.heading: measure.digits}
        | {"difference": measure.digits},
    )
    shown = [*names[: CATEGORIES // 2], *names[-CATEGORIES // 2 :]]
    kept = names if len(names) <= CATEGORIES else shown
    words = "Dots are the full state, grey ticks the base model; the largest gain stands at the top"
    if len(kept) < len(names):
        words += f"; {len(names) - len(kept)} categories in the middle are in the table alone"
    spec = charts.dots(
        [row for row in rows if row["name"] in set(kept)],
        x=measure.axis,
        order=kept,
        series=series,
    )
    return [Figure(title, words + ".", spec, table, legend(series))]


def _by_gain(rows: Sequence[dict[str, Any]], measure: Measure) -> list[str]:
    gains: dict[str, list[float]] = {}
    for row in rows:
        before = 0.0 if row["base"] is None else row["base"]
        gains.setdefault(row["name"], []).append(measure.gain(row["x"], before))
    return sorted(gains, key=lambda name: -sum(gains[name]) / len(gains[name]))


def _changes(run: ReportRun, scope: str, name: str) -> list[float]:
    full, base = run.scored(FULL, scope), run.scored(BASE, scope)
    assert full is not None
    before = _by_client(base)
    return [
        row.values[name] - before[row.client][name]
        for row in full.rows
        if name in row.values and name in before.get(row.client, {})
    ]


def _by_client(scored: Scored | None) -> dict[str, Any]:
    return {row.client: row.values for row in scored.rows} if scored else {}


def _spread(
    runs: Sequence[ReportRun], scope: str, measure: Measure, series: Sequence[str]
) -> list[Block]:
    changes = {run.label: _changes(run, scope, measure.name) for run in runs}
    changes = {name: found for name, found in changes.items() if found}
    if not changes:
        return []
    every = [x for found in changes.values() for x in found]
    worse = sum(measure.gain(x, 0.0) < 0 for x in every)
    title = f"Change of {measure.label} by client, {SCOPE_WORDS[scope]}"
    of = {run.label: run.arm for run in runs if run.label in changes}
    across = f"{measure.axis}, full state − base"
    spec, bins = histogram(changes, x=across, y="clients", series=series, of=of, whole=False)
    table = Table.of(
        title, ["run", "from", "to (below)", "clients"], [row for row in bins if row[3]]
    )
    words = "How many clients changed by how much against the base model"
    if len(changes) > 1:
        most = max(n for *_, n in bins)
        words += f", each run by itself (the tallest bar of all is {count(most, 'client')})"
    if measure.higher is not None:
        side = "left" if measure.higher else "right"
        words += f"; {side} of zero is worse: {worse:,} of {count(len(every), 'client')}"
    return [
        Figure(title, words + ".", spec, table, legend(series if len(set(of.values())) > 1 else ()))
    ]


def _worst(run: ReportRun, scope: str, found: Sequence[Measure], *, folded: bool) -> Table:
    full = run.scored(FULL, scope)
    assert full is not None
    before = _by_client(run.scored(BASE, scope))
    first = found[0]

    def gain(values: Any, base: Any) -> float:
        if first.name not in values:
            return 0.0
        return first.gain(values[first.name], base.get(first.name, 0.0))

    ranked = sorted(full.rows, key=lambda r: (gain(r.values, before.get(r.client, {})), r.client))
    rows = []
    for row in ranked:
        base = before.get(row.client, {})
        cells: list[Any] = [row.client, row.category, row.examples]
        for measure in found:
            value, was = row.values.get(measure.name), base.get(measure.name)
            cells += [value, _change(value, was, measure)]
        rows.append(cells)
    titles = [t for m in found for t in (m.heading, f"{m.label} − base")]
    digits = {title: m.digits for m in found for title in (m.heading, f"{m.label} − base")}
    return Table.of(
        f"{run.label}: {SCOPE_WORDS[scope]}, those that gained least in {first.label} first",
        ["client", "category", "examples", *titles],
        rows,
        digits=digits,
        limit=WORST,
        order="; they gained more",
        folded=folded,
    )


def _change(value: float | None, base: float | None, measure: Measure) -> Mark | None:
    if value is None or base is None:
        return None
    return Mark(value - base, signed(value - base, measure.digits))
