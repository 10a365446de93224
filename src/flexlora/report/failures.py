"""What went wrong: failures, rounds that were tried again, answers to spare, clients that rest."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from flexlora.config.faults import FaultsConfig
from flexlora.formats.words import count
from flexlora.report import charts
from flexlora.report.blocks import Block, Figure, Note, Section, Table
from flexlora.report.common import arms, by_round, legend, thinned
from flexlora.report.runs import ReportRun

SHOWN = 50  # Failures that are listed one by one at most.


def failures(runs: Sequence[ReportRun]) -> Section:
    failed = [(run, event) for run in runs for event in run.failed]
    others = [*_attempts(runs), *_spare(runs), *_refused(runs), *_rested(runs)]
    notes = [*_on_purpose(runs)]
    if not failed:
        return Section("failures", "Failures", (*notes, Note("No client failed."), *others))
    reasons = Counter((run.label, event.kind, event.reason) for run, event in failed)
    ranked = [[*which, n] for which, n in reasons.most_common()]
    clients = {(run.label, event.client) for run, event in failed}
    words = f"{count(len(failed), 'failure')} of {count(len(clients), 'client')}."
    blocks: list[Block] = [
        *notes,
        Note(words),
        Table.of("Reasons", ["run", "kind", "reason", "failures"], ranked, limit=SHOWN),
    ]
    if any(len(run.rounds) > 1 for run in runs):
        blocks.append(_by_round(runs))
    rows = [[run.label, x.round, x.client, x.kind, x.reason] for run, x in failed]
    names = ["run", "round", "client", "kind", "reason"]
    blocks.append(Table.of("Failures one by one", names, rows, limit=SHOWN))
    return Section("failures", "Failures", (*blocks, *others))


def _on_purpose(runs: Sequence[ReportRun]) -> Iterator[Note]:
    """Of runs that rehearse with faults: their failures say nothing of their clients."""
    for run in runs:
        if words := FaultsConfig(**run.config.get("faults", {})).words():
            yield Note(f"{run.label}: {words}.", warning=True)


def _attempts(runs: Sequence[ReportRun]) -> Iterator[Table]:
    """Rounds that were tried again, and who was missing in each attempt."""
    rows = [
        [run.label, r.round, number, len(missing), ", ".join(missing)]
        for run in runs
        for r in run.rounds
        if r.attempts > 1
        for number, missing in enumerate(r.missing, 1)
    ]
    if rows:
        names = ["run", "round", "attempt", "missing", "who"]
        yield Table.of("Rounds that took more than one attempt", names, rows, limit=SHOWN)


def _spare(runs: Sequence[ReportRun]) -> Iterator[Block]:
    spare = Counter((run.label, x) for run in runs for r in run.rounds for x in r.spare)
    words = "came when enough others had; they count for nothing and are no failures."
    yield from _answers(spare, "spare", words)


def _refused(runs: Sequence[ReportRun]) -> Iterator[Block]:
    refused = Counter((run.label, x.client) for run in runs for x in run.refused)
    words = (
        "came late, twice, or of another round, to nothing that was open; they are refused, and "
        "are no failures."
    )
    yield from _answers(refused, "refused", words)


def _answers(found: Counter[tuple[str, str]], what: str, words: str) -> Iterator[Block]:
    """Those that count for nothing and are no failures. found: (run, client) → how many."""
    if found:
        yield Note(f"{count(found.total(), 'answer')} {words}")
        rows = [[*which, n] for which, n in found.most_common()]
        title = f"{what.capitalize()} answers"
        yield Table.of(title, ["run", "client", what], rows, limit=SHOWN)


def _rested(runs: Sequence[ReportRun]) -> Iterator[Table]:
    rows = [[run.label, x.client, x.round, x.failures, x.until] for run in runs for x in run.rested]
    if rows:
        names = ["run", "client", "after round", "failures in a row", "rests up to round"]
        yield Table.of("Clients that rested", names, rows, limit=SHOWN)


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
