"""How training went: losses and scores by round, what the clients measured, ranks and costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from flexlora.report import charts
from flexlora.report.blocks import Block, Figure, Heading, Note, Section, Table
from flexlora.report.common import arms, by_round, legend, parts_legend, thinned
from flexlora.report.runs import Measure, ReportRun, measures
from flexlora.runs.records import RoundRecord, Spread

Value = Callable[[RoundRecord], float | None]
_BINS = 40


def progress(runs: Sequence[ReportRun]) -> Section:
    if not any(run.rounds for run in runs):
        return Section("rounds", "By round", (Note("No round has been played yet."),))
    blocks: list[Block] = []
    names = [name for run in runs for r in run.rounds for name in r.scores]
    for measure in measures(runs, names):
        words = "The server's validation after each round"
        if any(run.scored_round is not None for run in runs):
            words += "; the ring is the round whose state was scored"
        blocks.append(
            _figure(f"Validation {measure.label}", words + ".", runs, measure, _validation(measure))
        )
    if not names:
        blocks.append(Note("No round was validated by the server."))
    loss = Measure.of("loss")
    words = "Mean loss of the clients that replied in a round, in nats per token, as they trained."
    blocks.append(_figure("Training loss", words, runs, loss, lambda r: r.train_loss, ring=False))
    blocks += _on_clients(runs)
    return Section("rounds", "By round", tuple(blocks))


def costs(runs: Sequence[ReportRun]) -> Section:
    played = [run for run in runs if run.rounds]
    if not played:
        return Section("costs", "Bytes and time", (Note("No round has been played yet."),))
    blocks: list[Block] = [_bytes(played), *_efficiency(played), _seconds(played)]
    if measured := [
        [run.label, kind, _mega(held["peak_bytes"]), held["cohort"]]
        for run in played
        for kind, held in run.passes.items()
        if held["peak_bytes"] is not None
    ]:
        words = (
            "Memory of training beside the base's weights: the most by which a pass of a type's "
            "clients raised it where they trained, as measured"
        )
        blocks.append(Table.of(words, ["run", "type", "MB", "clients in that pass"], measured))
    return Section("costs", "Bytes and time", tuple(blocks))


def _mega(amount: int | None) -> float | None:
    return None if amount is None else amount / 1e6


def _validation(measure: Measure) -> Value:
    return lambda r: r.scores.get(measure.name)


def _figure(
    title: str,
    words: str,
    runs: Sequence[ReportRun],
    measure: Measure,
    value: Value,
    *,
    ring: bool = True,
) -> Block:
    """A line a run; a sentence where no round has a value."""
    rows, columns = [], {}
    for run in runs:
        values = [(r.round, value(r)) for r in run.rounds]
        found = [(number, x) for number, x in values if x is not None and math.isfinite(x)]
        columns[run.label] = dict(found)
        kept = set(thinned([number for number, _ in found]))
        for number, x in found:
            marked = ring and number == run.scored_round
            if number in kept or marked:
                row = {"x": number, "y": x, "series": run.arm, "run": run.label}
                rows.append(row | {"marked": marked})
    if not rows:
        return Note(f"{title}: no round has a finite value.")
    spec = charts.lines(rows, x="round", y=measure.axis, series=arms(runs))
    table = by_round(f"{title} by round", columns)
    return Figure(f"{title} by round", words, spec, table, legend(arms(runs)))


def _on_clients(runs: Sequence[ReportRun]) -> list[Block]:
    """One figure a metric: mean and worst tenth, of the global adapter and of the tuned one."""
    found = [(run, r) for run in runs for r in run.rounds if r.on_clients]
    names = [name for _, r in found for name in _metrics(r)]
    blocks: list[Block] = [Heading("As the clients measure it")] if names else []
    for measure in measures(runs, names):
        for kind, words in (
            ("global", "The global adapter at each client's own rank, on its held-out part"),
            ("tuned", "What each client fine-tuned in that round, on its held-out part"),
        ):
            lines = _client_lines(found, kind, measure.name)
            if not lines:
                continue
            rows = [
                {"x": n, "y": y, "series": run.arm, "run": f"{run.label}, {what}", "kind": what}
                for run, what, points in lines
                for n, y in thinned(points)
            ]
            columns = {f"{run.label}, {what}": dict(points) for run, what, points in lines}
            title = f"{measure.label} on clients, {kind} adapter, by round"
            kinds = ("mean", "worst tenth")
            spec = charts.lines(rows, x="round", y=measure.axis, series=arms(runs), kinds=kinds)
            keys = legend(arms(runs), {"mean": False, "mean of the worst 10 % of clients": True})
            blocks.append(Figure(title, words + ".", spec, by_round(title, columns), keys))
    return blocks


def _client_lines(
    found: Sequence[tuple[ReportRun, RoundRecord]], kind: str, name: str
) -> list[tuple[ReportRun, str, list[tuple[int, float]]]]:
    lines = []
    for _, group in itertools.groupby(found, key=lambda pair: pair[0].label):
        pairs = [(run, r.round, x) for run, r in group if (x := _spread(r, kind, name))]
        for key, what in (("mean", "mean"), ("worst", "worst tenth")):
            values = [(number, getattr(spread, key)) for _, number, spread in pairs]
            points = [(number, value) for number, value in values if math.isfinite(value)]
            if points:
                lines.append((pairs[0][0], what, points))
    return lines


def _metrics(r: RoundRecord) -> list[str]:
    """What its clients scored."""
    kinds = () if r.on_clients is None else r.on_clients.by_kind.values()
    return [name for scores in kinds for name in scores.metrics]


def _spread(r: RoundRecord, kind: str, name: str) -> Spread | None:
    scores = None if r.on_clients is None else r.on_clients.by_kind.get(kind)
    return None if scores is None else scores.metrics.get(name)


def _bytes(runs: Sequence[ReportRun]) -> Figure:
    rows, columns = [], {}
    ways: tuple[tuple[str, Value], ...] = (
        ("down", lambda r: r.total_bytes_down),
        ("up", lambda r: r.bytes_up),
    )
    for run in runs:
        for way, value in ways:
            sums = itertools.accumulate((value(r) or 0) / 1e6 for r in run.rounds)
            points = list(zip((r.round for r in run.rounds), sums, strict=True))
            columns[f"{run.label}, {way}"] = dict(points)
            rows += [
                {"x": n, "y": y, "series": run.arm, "run": f"{run.label}, {way}", "kind": way}
                for n, y in thinned(points)
            ]
    title = "Megabytes sent so far, by round"
    spec = charts.lines(
        rows, x="round", y="megabytes, cumulative", series=arms(runs), kinds=("down", "up")
    )
    keys = legend(arms(runs), {"server to clients": False, "clients to server": True})
    words = "All payloads as serialised, added up; where the two lines coincide, only one is seen."
    return Figure(title, words, spec, by_round(title, dict(columns)), keys)


def _efficiency(runs: Sequence[ReportRun]) -> list[Block]:
    """The leading validation metric against what was sent until then; of several runs only."""
    found = measures(runs, [name for run in runs for r in run.rounds for name in r.scores])
    if len(runs) < 2 or not found:
        return []
    measure = found[0]
    rows, cells = [], []
    for run in runs:
        sums = itertools.accumulate((r.total_bytes_down + r.bytes_up) / 1e6 for r in run.rounds)
        points = [
            (r.round, sent, y)
            for r, sent in zip(run.rounds, sums, strict=True)
            if (y := r.scores.get(measure.name)) is not None
        ]
        for number, sent, y in thinned(points, 100):
            rows.append({"x": sent, "y": y, "series": run.arm, "run": run.label})
            cells.append([run.label, number, sent, y])
    title = f"Validation {measure.label} by megabytes sent"
    spec = charts.lines(
        rows, x="megabytes sent, both ways", y=measure.axis, series=arms(runs), whole=False
    )
    table = Table.of(title, ["run", "round", "MB sent", measure.label], cells)
    words = "What each run reached for the bytes it had sent: further left is cheaper."
    return [Figure(title, words, spec, table, legend(arms(runs)))]


def _seconds(runs: Sequence[ReportRun]) -> Figure:
    phases = list(dict.fromkeys(p for run in runs for r in run.rounds for p in r.seconds))
    totals = {
        run.label: {p: sum(r.seconds.get(p, 0.0) for r in run.rounds) for p in phases}
        for run in runs
    }
    scale, unit = (
        (60.0, "minutes")
        if max(sum(t.values()) for t in totals.values()) > 600
        else (1.0, "seconds")
    )
    rows = [
        {"name": label, "part": phase, "x": seconds / scale}
        for label, total in totals.items()
        for phase, seconds in total.items()
    ]
    cells = [
        [label, *(total[p] for p in phases), sum(total.values())] for label, total in totals.items()
    ]
    title = f"{unit.capitalize()} by phase"
    table = Table.of("Seconds by phase, all rounds", ["run", *phases, "all"], cells)
    words = (
        "Where the time of all rounds went on the machine that ran it; clients that are played one "
        "after the other add up."
    )
    spec = charts.stacked(rows, x=unit, order=list(totals), parts=phases)
    return Figure(title, words, spec, table, parts_legend(phases))


def bins(rounds: Sequence[RoundRecord]) -> list[Sequence[RoundRecord]]:
    """Consecutive rounds in at most 40 groups of one size (the last may be smaller)."""
    size = -(-len(rounds) // _BINS)
    return [rounds[i : i + size] for i in range(0, len(rounds), size)]
