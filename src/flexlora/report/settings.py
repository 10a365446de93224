"""What went wrong, and what it takes to make the numbers again."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flexlora.errors import cut_short
from flexlora.formats.words import count
from flexlora.report import charts
from flexlora.report.blocks import Block, Figure, Note, Section, Table
from flexlora.report.common import arms, by_round, legend, thinned
from flexlora.report.runs import ReportRun

SHOWN = 50  # Failures that are listed one by one at most.


def failures(runs: Sequence[ReportRun]) -> Section:
    failed = [(run, event) for run in runs for event in run.failed]
    if not failed:
        return Section("failures", "Failures", (Note("No client failed."),))
    reasons = Counter((run.label, event.kind, event.reason) for run, event in failed)
    ranked = [[*which, n] for which, n in reasons.most_common()]
    clients = {(run.label, event.client) for run, event in failed}
    words = f"{count(len(failed), 'failure')} of {count(len(clients), 'client')}."
    blocks: list[Block] = [
        Note(words),
        Table.of("Reasons", ["run", "kind", "reason", "failures"], ranked, limit=SHOWN),
    ]
    if any(len(run.rounds) > 1 for run in runs):
        blocks.append(_by_round(runs))
    rows = [[run.label, x.round, x.client, x.kind, x.reason] for run, x in failed]
    names = ["run", "round", "client", "kind", "reason"]
    blocks.append(Table.of("Failures one by one", names, rows, limit=SHOWN))
    return Section("failures", "Failures", tuple(blocks))


def _by_round(runs: Sequence[ReportRun]) -> Figure:
    title = "Failures so far, by round"
    columns: dict[str, Mapping[int, float | None]] = {}
    rows = []
    for run in runs:
        sums = itertools.accumulate(r.failures for r in run.rounds)
        points = list(zip((r.round for r in run.rounds), sums, strict=True))
        columns[run.label] = dict(points)
        rows += [
            {"x": number, "y": n, "series": run.arm, "run": run.label}
            for number, n in thinned(points)
        ]
    spec = charts.lines(rows, x="round", y="failures, cumulative", series=arms(runs), zero=True)
    words = "Clients drawn to train that did not count, added up; a steeper line is a worse time."
    return Figure(title, words, spec, by_round(title, columns), legend(arms(runs)))


def settings(runs: Sequence[ReportRun]) -> Section:
    configs = {
        run.label: {
            f"{table}.{key}": value
            for table, keys in run.config.items()
            for key, value in keys.items()
        }
        for run in runs
    }
    data = {
        run.label: {key: value for key, value in run.data.items() if key != "partition"}
        for run in runs
    }
    environments = {run.label: run.environment for run in runs}
    return Section(
        "settings",
        "Config and environment",
        (
            _side_by_side("Config", configs),
            _side_by_side("Data", data),
            _side_by_side("Environment", environments),
        ),
    )


def _side_by_side(title: str, tables: Mapping[str, Mapping[str, Any]]) -> Table:
    """Rows are keys, columns runs; keys in which the runs differ come first."""
    keys = list(dict.fromkeys(key for table in tables.values() for key in table))
    texts = {key: [_text(table.get(key)) for table in tables.values()] for key in keys}
    differing = [key for key in keys if len(set(texts[key])) > 1]
    same = [key for key in keys if key not in differing]
    note = f", the {count(len(differing), 'key')} that differ first" if differing else ""
    rows = [[key, *texts[key]] for key in differing + same]
    return Table.of(title + note, ["key", *tables], rows)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return cut_short(text, 300)
