"""Is the rank collapsing? Effective rank by round, and the spectra of the first and last round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from flexlora.report import charts
from flexlora.report.blocks import Block, Figure, Mark, Note, Section, Table, signed
from flexlora.report.common import arms, by_round, legend, thinned
from flexlora.report.runs import ReportRun
from flexlora.runs.spectra import Spectrum


def spectra(runs: Sequence[ReportRun]) -> Section:
    title = "Spectra and effective rank"
    having = [run for run in runs if any(s.layers for s in run.spectra)]
    if not having:
        return Section("spectra", title, (Note("No run has records of its singular values."),))
    blocks: list[Block] = [Note(_verdict(having[0])) if len(having) == 1 else _verdicts(having)]
    blocks += [
        Note(f"{run.label} has no records of its singular values.")
        for run in runs
        if run not in having
    ]
    blocks.append(_by_round(having, arms(runs)))
    if len(having) == 1:
        blocks += _by_module(having[0])
    blocks.append(_first_and_last(having, arms(runs)))
    return Section("spectra", title, tuple(blocks))


def _ranks(spectrum: Spectrum) -> list[float]:
    return [layer.effective_rank for layer in spectrum.layers.values()]


def _used(run: ReportRun) -> list[Spectrum]:
    return [spectrum for spectrum in run.spectra if spectrum.layers]


def _verdict(run: ReportRun) -> str:
    used = _used(run)
    first, last = used[0], used[-1]
    rank = statistics.median(layer.rank for layer in last.layers.values())
    now = statistics.median(_ranks(last))
    if first is last:
        return (
            f"{run.label}: after round {last.round} the median effective rank over "
            f"{len(last.layers)} layers is {now:.1f}, of {rank:.0f} directions held."
        )
    before = statistics.median(_ranks(first))
    change = 100 * (now / before - 1) if before else 0.0
    way = "did not change" if abs(change) < 0.5 else "grew" if change > 0 else "fell"
    much = "" if abs(change) < 0.5 else f" by {abs(change):.0f} %"
    return (
        f"{run.label}: the median effective rank over {len(last.layers)} layers {way}{much}, from "
        f"{before:.1f} in round {first.round} to {now:.1f} in round {last.round}, of {rank:.0f} "
        "directions held."
    )


def _verdicts(runs: Sequence[ReportRun]) -> Table:
    rows: list[list[Any]] = []
    for run in runs:
        first, last = _used(run)[0], _used(run)[-1]
        before, now = (statistics.median(_ranks(x)) for x in (first, last))
        change = Mark(now - before, signed(now - before, 1)) if first is not last else None
        held = statistics.median(float(layer.rank) for layer in last.layers.values())
        rows.append([run.label, first.round, before, last.round, now, change, held])
    names = [
        "run",
        "first round",
        "effective rank, first",
        "last round",
        "effective rank, last",
        "change",
    ]
    digits = {"effective rank, first": 1, "effective rank, last": 1, "directions held": 0}
    title = "Median effective rank over layers"
    return Table.of(title, [*names, "directions held"], rows, digits=digits)


def _by_round(runs: Sequence[ReportRun], series: Sequence[str]) -> Figure:
    rows, cells = [], []
    for run in runs:
        for spectrum in thinned(_used(run)):
            found = _ranks(spectrum)
            low, middle, high = min(found), statistics.median(found), max(found)
            row = {"x": spectrum.round, "y": middle, "low": low, "high": high}
            rows.append(row | {"series": run.arm, "run": run.label})
            cells.append([run.label, spectrum.round, low, middle, high])
    title = "Effective rank by round"
    alone = len(runs) == 1
    spec = charts.lines(rows, x="round", y="effective rank", series=series, band=alone, zero=True)
    table = Table.of(title, ["run", "round", "least", "median", "most"], cells)
    words = (
        "How many directions the learned update really uses, the median over layers"
        f"{'; the band spans the least and the most' if alone else ''}: a falling line is a "
        "collapsing rank."
    )
    return Figure(title, words, spec, table, legend(series))


def _by_module(run: ReportRun) -> list[Block]:
    """Of one run: a line for each type of module, where there is more than one."""
    columns: dict[str, dict[int, float | None]] = {}
    rows = []
    for spectrum in thinned(_used(run)):
        groups: dict[str, list[float]] = {}
        for name, layer in spectrum.layers.items():
            groups.setdefault(name.rpartition(".")[2], []).append(layer.effective_rank)
        for module, found in groups.items():
            middle = statistics.median(found)
            columns.setdefault(module, {})[spectrum.round] = middle
            rows.append({"x": spectrum.round, "y": middle, "series": module, "run": module})
    if not 1 < len(columns) <= charts.COLOURS:
        return []
    title = "Effective rank by type of module"
    spec = charts.lines(rows, x="round", y="effective rank", series=list(columns), zero=True)
    table = by_round(f"{title}, median", columns)
    words = "The median over the layers of each type."
    return [Figure(title, words, spec, table, legend(list(columns)))]


def _first_and_last(runs: Sequence[ReportRun], series: Sequence[str]) -> Figure:
    rows, cells = [], []
    for run in runs:
        used = _used(run)
        for kind, spectrum in (("last", used[-1]), ("first", used[0]))[: len(used)]:
            for index, share in enumerate(_profile(spectrum), 1):
                name = f"{run.label}, round {spectrum.round}"
                row = {"x": index, "y": share, "series": run.arm, "run": name, "kind": kind}
                rows.append(row)
                cells.append([run.label, spectrum.round, index, share])
    title = "Singular values, first and last round"
    spec = charts.lines(
        rows,
        x="singular value, by size",
        y="relative to the largest",
        series=series,
        kinds=("last", "first"),
        log=True,
    )
    words = (
        "The median over layers of each singular value relative to its layer's largest, on a "
        "logarithmic scale: a steeper line means fewer directions."
    )
    table = Table.of(title, ["run", "round", "index", "relative size"], cells)
    keys = legend(series, {"last round": False, "first round": True})
    return Figure(title, words, spec, table, keys)


def _profile(spectrum: Spectrum) -> list[float]:
    """σᵢ / σ₁, the median over the layers that have an i-th value above zero."""
    scaled = [
        [value / layer.values[0] for value in layer.values if value > 1e-7 * layer.values[0]]
        for layer in spectrum.layers.values()
        if layer.values and layer.values[0] > 0
    ]
    longest = max(map(len, scaled), default=0)
    return [statistics.median(v[i] for v in scaled if len(v) > i) for i in range(longest)]
