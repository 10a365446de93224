"""Who trains at which rank, and what each rank gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from flexlora.report import charts
from flexlora.report.blocks import Block, Figure, Note, Section, Table
from flexlora.report.common import (
    SCOPE_WORDS,
    arms,
    leading,
    legend,
    parts_legend,
    score_measures,
)
from flexlora.report.rounds import bins
from flexlora.report.runs import SCOPES, Measure, ReportRun
from flexlora.runs.results import BASE, START, STATE_WORDS


def ranks(runs: Sequence[ReportRun]) -> Section:
    blocks: list[Block] = []
    rows = [
        [run.label, kind, rank, run.clients.get(kind), _updates(run)[kind]]
        for run in runs
        for kind, rank in run.ranks.items()
    ]
    if rows:
        names = ["run", "client type", "rank", "clients", "updates given"]
        blocks.append(Table.of("Client types", names, rows, limit=120))
    else:
        blocks.append(Note("The run has no record of its client types."))
    if any(_updates(run) for run in runs):
        blocks.append(_given(runs))
    scope = next((s for s in SCOPES if score_measures(runs, s)), None)
    if scope is not None:
        for measure in leading(score_measures(runs, scope)):
            blocks += _gets(runs, scope, measure)
    return Section("ranks", "Ranks", tuple(blocks))


def _updates(run: ReportRun) -> Counter[str]:
    total: Counter[str] = Counter()
    for r in run.rounds:
        total.update(r.types)
    return total


def _kinds(run: ReportRun) -> list[str]:
    """The types that gave updates, in the order of the run's own table."""
    return sorted(_updates(run), key=lambda kind: [*run.ranks, kind].index(kind))


def _type_name(run: ReportRun, kind: str) -> str:
    rank = run.ranks.get(kind)
    return kind if rank is None else f"{kind} (rank {rank})"


def _given(runs: Sequence[ReportRun]) -> Figure:
    """Of one run: by round. Of several: a bar each."""
    kinds = list(dict.fromkeys(_type_name(run, kind) for run in runs for kind in _kinds(run)))
    if len(runs) > 1:
        rows = [
            {"name": run.label, "part": _type_name(run, kind), "x": _updates(run)[kind]}
            for run in runs
            for kind in _kinds(run)
        ]
        spec = charts.stacked(rows, x="updates", order=[run.label for run in runs], parts=kinds)
        table = Table.of(
            "Updates by client type",
            ["run", "client type", "updates"],
            [[r["name"], r["part"], r["x"]] for r in rows],
        )
        words = "How many updates the clients of each type gave in all rounds."
        return Figure("Updates by client type", words, spec, table, parts_legend(kinds))
    run = runs[0]
    columns, cells = [], []
    for group in bins(run.rounds):
        first, last = group[0].round, group[-1].round
        total: Counter[str] = Counter()
        for r in group:
            total.update(r.types)
        for kind in _kinds(run):
            name = _type_name(run, kind)
            columns.append({"x": first - 0.5, "x2": last + 0.5, "part": name, "y": total[kind]})
        rounds = f"{first}" if first == last else f"{first}–{last}"
        cells.append([rounds, *(total[kind] for kind in _kinds(run))])
    size = len(bins(run.rounds)[0])
    y = "updates" if size == 1 else f"updates in {size} rounds"
    spec = charts.columns(columns, x="round", y=y, parts=kinds)
    names = ["rounds", *(_type_name(run, kind) for kind in _kinds(run))]
    table = Table.of("Updates by client type and round", names, cells)
    words = "How many clients of each type replied: an even mix of colours is an even mix of ranks."
    return Figure("Updates by client type and round", words, spec, table, parts_legend(kinds))


def _gets(runs: Sequence[ReportRun], scope: str, measure: Measure) -> list[Block]:
    """The score of what each client type is given, and of the full state."""
    rows, order = [], []
    for run in runs:
        base = run.scored(BASE, scope)
        before = base.mean.get(measure.name) if base else None
        for state in run.states:
            scored = state.scores.get(scope)
            if state.name in (BASE, START) or not scored or measure.name not in scored.mean:
                continue
            name = STATE_WORDS.get(state.name) or _type_name(run, state.name)
            order.append(name)
            value = scored.mean[measure.name]
            row = {"name": name, "run": run.label, "series": run.arm}
            rows.append(row | {"x": value, "base": before})
    if len(set(order)) < 2:
        return []
    names = list(dict.fromkeys(order))
    title = f"{measure.label} at each rank, {SCOPE_WORDS[scope]}"
    table = Table.of(
        title,
        ["what is scored", "run", measure.heading],
        [[r["name"], r["run"], r["x"]] for r in rows],
        digits={measure.heading: measure.digits},
    )
    words = (
        "What is left of the full state when it is cut to what a client type affords; grey: base."
    )
    spec = charts.dots(rows, x=measure.axis, order=names, series=arms(runs))
    return [Figure(title, words, spec, table, legend(arms(runs)))]
