"""The scores of finished runs, out of their directories alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flexlora.cli.console import say, screen
from flexlora.cli.sheets import Column, Sheet
from flexlora.evaluation import MeanScore
from flexlora.evaluation.metric import is_summed
from flexlora.formats.words import megabytes
from flexlora.report.runs import Measure
from flexlora.runs.events import Ended
from flexlora.runs.means import Means
from flexlora.runs.results import BASE, FULL, STATE_WORDS
from flexlora.runs.run_directory import Run
from flexlora.runs.spectra import read_spectra

_LEAST_SHARE = 1e-4


def results_table(ends: Sequence[Ended]) -> None:
    """Scores on unseen examples and on the clients' own test parts; the base model first.

    The base is that of the first run: runs that are shown together share it.
    """
    rows: list[tuple[str, Means | None, Ended | None]] = []
    after: list[int] = []
    for end in ends:
        if not end.rows:
            say(f"{end.run}: unseen examples were not scored (evaluation.unseen is false)")
            continue
        if not rows:
            rows.append((STATE_WORDS[BASE], end.rows[0], None))
        after.append(len(rows) - 1)
        rows.append((end.rule, None, None))
        for row in end.rows[1:]:
            name = STATE_WORDS.get(row.state, f"{row.state} ({row.ranks})")
            rows.append((f"  {name}", row, end if row.state == FULL else None))
    scored = next((end for end in ends if end.rows), None)
    if scored is None:
        return
    Sheet(
        title="unseen examples, and the clients' own test examples",
        names=Column("rule and adapter", [name for name, _, _ in rows], left=True),
        columns=_columns(rows, _measures(scored)),
        ends=after,
        bold=[place for place, (_, means, _) in enumerate(rows) if means is None],
    ).print(screen(wide=True))
    summed = [x for x in _measures(scored) if is_summed(x.name, {})]
    for measure in summed:
        _by_owner(rows, measure)
    for end in ends:
        _left_out(end)


def _left_out(end: Ended) -> None:
    """What even the full state lacks, where the rule cuts its sum to the highest rank."""
    run = Run.open(end.run)
    record = next((x for x in run.records() if x.round == end.scored_round), None)
    seen = next((x for x in read_spectra(run) if x.round == end.scored_round), None)
    if not end.rows or record is None or record.cut is None or seen is None:
        return
    kept = sum(layer.norm**2 for layer in seen.layers.values())
    cut = record.cut.error**2
    if cut > 0.0:
        share = cut / (cut + kept)
        told = f"{share:.2%}" if share >= _LEAST_SHARE else f"under {_LEAST_SHARE:.2%}"
        say(f"the full state lacks {told} of its sum's energy, cut off in round {record.round}")


def _by_owner(rows: Sequence[tuple[str, Means | None, Ended | None]], measure: Measure) -> None:
    """What was summed up over the clients of each type: whose part of it is in what adapter."""
    kinds = sorted({kind for _, means, _ in rows if means for kind in means.own_types})
    if not kinds:
        return
    cells = [
        ["" if m is None else _cell(m.own_types.get(kind), measure) for _, m, _ in rows]
        for kind in kinds
    ]
    say()
    Sheet(
        title=f"own {measure.heading}, by client type",
        names=Column("rule and adapter", [name for name, _, _ in rows], left=True),
        columns=[Column(f"of {k}", c) for k, c in zip(kinds, cells, strict=True)],
        bold=[place for place, (_, means, _) in enumerate(rows) if means is None],
    ).print(screen(wide=True))


def _columns(
    rows: Sequence[tuple[str, Means | None, Ended | None]], measures: Sequence[Measure]
) -> list[Column]:
    scored = [means for _, means, _ in rows]
    found = [
        Column(x.heading, ["" if m is None else _cell(m.unseen, x) for m in scored])
        for x in measures
    ]
    if any(means is not None and means.own is not None for means in scored):
        found += [
            Column(f"own\n{x.heading}", ["" if m is None else _cell(m.own, x) for m in scored])
            for x in measures
        ]
    ends = [end for _, _, end in rows]
    found.append(Column("MB up", ["" if e is None else megabytes(e.bytes_up) for e in ends]))
    found.append(Column("MB down", ["" if e is None else megabytes(e.bytes_down) for e in ends]))
    found.append(Column("s, rounds", ["" if e is None else f"{e.seconds:.0f}" for e in ends]))
    return found


def _cell(mean: MeanScore | None, measure: Measure) -> str:
    """ "–" where nothing was scored by it."""
    value = None if mean is None else mean.values.get(measure.name)
    return "–" if value is None else f"{value:.{measure.digits}f}"


def _measures(end: Ended) -> list[Measure]:
    """How its metrics are shown."""
    better: Mapping[str, bool] = Run.open(end.run).resolved.get("higher_is_better", {})
    return [Measure.of(name, better) for name in end.rows[0].unseen.values]
