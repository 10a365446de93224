"""The scores of finished runs, out of their directories alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flexlora.cli.console import say, screen
from flexlora.cli.sheets import Column, Sheet
from flexlora.formats.words import megabytes
from flexlora.report.runs import Measure
from flexlora.runs.events import Ended, Means
from flexlora.runs.results import BASE, FULL, STATE_WORDS
from flexlora.runs.run_directory import Run


def results_table(ends: Sequence[Ended]) -> None:
    """Scores on unseen clients and on the clients' own test parts; the base model first.

    The base is that of the first run: runs that are shown together share it.
    """
    rows: list[tuple[str, Means | None, Ended | None]] = []
    after: list[int] = []
    for end in ends:
        if not end.rows:
            say(f"{end.run}: unseen clients were not scored (evaluation.unseen is false)")
            continue
        if not rows:
            rows.append((STATE_WORDS[BASE], end.rows[0], None))
        after.append(len(rows) - 1)
        rows.append((end.rule, None, None))
        for row in end.rows[1:]:
            name = STATE_WORDS.get(row.state, f"{row.state} ({row.ranks})")
            rows.append((f"  {name}", row, end if row.state == FULL else None))
    if not rows:
        return
    Sheet(
        title="unseen clients, and the clients' own test examples",
        names=Column("rule and adapter", [name for name, _, _ in rows], left=True),
        columns=_columns(rows),
        ends=after,
        bold=[place for place, (_, means, _) in enumerate(rows) if means is None],
    ).print(screen(wide=True))


def _columns(rows: Sequence[tuple[str, Means | None, Ended | None]]) -> list[Column]:
    headings = _headings([end for _, _, end in rows if end is not None])
    found = []
    for name, (heading, digits) in headings.items():
        cells = ["" if m is None else f"{m.unseen[name]:.{digits}f}" for _, m, _ in rows]
        found.append(Column(heading, cells))
    if any(means is not None and means.own is not None for _, means, _ in rows):
        for name, (heading, digits) in headings.items():
            cells = [_own(means, name, digits) for _, means, _ in rows]
            found.append(Column(f"own\n{heading}", cells))
    ends = [end for _, _, end in rows]
    found.append(Column("MB up", ["" if e is None else megabytes(e.bytes_up) for e in ends]))
    found.append(Column("MB down", ["" if e is None else megabytes(e.bytes_down) for e in ends]))
    found.append(Column("s, rounds", ["" if e is None else f"{e.seconds:.0f}" for e in ends]))
    return found


def _own(means: Means | None, name: str, digits: int) -> str:
    if means is None:
        return ""
    return "–" if means.own is None else f"{means.own[name]:.{digits}f}"


def _headings(ends: Sequence[Ended]) -> dict[str, tuple[str, int]]:
    """Metric → its heading with an arrow to where it is better, and its digits."""
    better: Mapping[str, bool] = Run.open(ends[0].run).resolved.get("higher_is_better", {})
    measures = [Measure.of(name, better) for name in ends[0].rows[0].unseen.values]
    return {measure.name: (measure.heading, measure.digits) for measure in measures}
