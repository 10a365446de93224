"""What came out: scores against the base model, and the runs against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flexlora.formats.words import count
from flexlora.report import charts
from flexlora.report.blocks import (
    NO_CHANGE,
    Block,
    Figure,
    Mark,
    Note,
    Section,
    Table,
    Tile,
    Tiles,
    plain,
    signed,
)
from flexlora.report.common import SCOPE_WORDS, arms, base_models, leading, legend, score_measures
from flexlora.report.runs import SCOPES, Measure, ReportRun, Scored, differing_data
from flexlora.report.seeds import over_seeds
from flexlora.runs.results import BASE, FULL, START, STATE_WORDS


def outcome(runs: Sequence[ReportRun]) -> Section:
    blocks: list[Block] = []
    differing = differing_data(runs)
    seeds = {run.seed for run in runs}
    apart = [what for seed in seeds for what in differing_data([r for r in runs if r.seed == seed])]
    if apart:
        what = " and ".join(dict.fromkeys(apart))
        blocks.append(
            Note(f"These runs differ in their {what}: do not compare their scores directly.", True)
        )
    elif differing:
        what = " and ".join(differing)
        words = (
            f"The {what} differ by seed: compare runs of one seed, or means over the same seeds."
        )
        blocks.append(Note(words))
    if len(arms(runs)) > charts.COLOURS:
        words = (
            f"There are more names than colours: from the {charts.COLOURS + 1}th on, they repeat."
        )
        blocks.append(Note(words))
    blocks += base_models(run.base_model for run in runs)
    blocks += _unscored([run for run in runs if not run.states])
    blocks += [_began(run, run.parent) for run in runs if run.parent]
    if len(runs) == 1:
        blocks += _tiles(runs[0])
    for scope in SCOPES:
        if any(run.scored(FULL, scope) for run in runs):
            blocks += _scores(runs, scope, mark=not differing)
    blocks.append(_overview(runs))
    return Section("outcome", "Outcome", tuple(blocks))


def _unscored(runs: Sequence[ReportRun]) -> list[Block]:
    """One warning for all of them, that says how far each is."""
    if not runs:
        return []
    names = [
        f"{run.label} ({_played(run):,} of {count(run.planned, 'round')} played)" for run in runs
    ]
    return [Note(f"No final scores: {', '.join(names)}.", True)]


def _played(run: ReportRun) -> int:
    return run.rounds[-1].round if run.rounds else 0


def _rounds(run: ReportRun) -> str:
    own = "" if len(run.rounds) == _played(run) else f" ({len(run.rounds):,} of them here)"
    return f"{_played(run):,} of {run.planned:,}{own}"


def _began(run: ReportRun, parent: Mapping[str, Any]) -> Note:
    kind, rule, number = (parent.get(key) for key in ("kind", "rule", "round"))
    what = f"the {kind} {parent.get('path')}" if kind else str(parent.get("path"))
    if rule is not None and number is not None:
        what += f", played by {rule} up to round {number}"
    return Note(
        f"{run.label} began from {what}; the starting state is what it had learned there, and what "
        "was sent and how long it took there is not counted here."
    )


def _tiles(run: ReportRun) -> list[Block]:
    scope = next((s for s in SCOPES if run.scored(FULL, s)), None)
    if scope is None:
        return []
    full, base = run.scored(FULL, scope), run.scored(BASE, scope)
    assert full is not None
    tiles = []
    for measure in score_measures([run], scope):
        value = full.mean.get(measure.name)
        before = base.mean.get(measure.name) if base else None
        if value is None:
            continue
        against, good = "no base score", None
        if before is not None:
            change = _difference(value, before, measure)
            against = f"{change} against {_value(before, measure)}"
            if measure.higher is not None and not change.startswith(NO_CHANGE):
                good = measure.gain(value, before) > 0
        tiles.append(Tile(measure.heading, _value(value, measure), against, good))
    words = (
        f"The full state against the base model, on {SCOPE_WORDS[scope]} ({_counted(full, scope)})."
    )
    return [Note(words), Tiles(tuple(tiles))]


def _scores(runs: Sequence[ReportRun], scope: str, *, mark: bool) -> list[Block]:
    found = score_measures(runs, scope)
    title = f"Scores on {SCOPE_WORDS[scope]}"
    seeded = any(sum(run.arm == arm for run in runs) > 1 for arm in arms(runs))
    blocks: list[Block] = [_table(title, runs, scope, found, mark)]
    if seeded:
        blocks.append(over_seeds(runs, scope, found))
    if len(runs) > 1 and scope == SCOPES[0]:
        blocks += [_against(runs, scope, measure) for measure in leading(found)]
    return blocks


def _table(
    title: str, runs: Sequence[ReportRun], scope: str, found: Sequence[Measure], mark: bool
) -> Table:
    best = _best(runs, scope, found) if mark and len(runs) > 1 else {}
    bases: list[list[Any]] = []
    rows: list[list[Any]] = []
    shown: list[tuple[Any, ...]] = []
    for run in runs:
        for state in run.states:
            if len(runs) > 1 and state.name not in STATE_WORDS:
                continue  # Readouts of client types have a table of their own, by rank.
            scored = state.scores.get(scope)
            if scored is None:
                continue
            base = run.scored(BASE, scope) if state.name != BASE else None
            top = best if state.name == FULL else {}
            cells = [_scored_cells(scored, base, m, top.get(m.name)) for m in found]
            scores = [cell for pair in cells for cell in pair]
            words = STATE_WORDS.get(state.name, f"{state.name}, rank {state.ranks}")
            if state.name == BASE and len(runs) > 1:
                key = tuple(scored.mean.get(m.name) for m in found)
                if key in shown:
                    continue
                shown.append(key)
                name = "base model" if len(shown) == 1 else f"base model of {run.label}"
                bases.append([name, *scores])
            elif state.name == START and len(runs) > 1:
                rows.append([f"{run.label}, starting state", *scores])
            else:
                rows.append([run.label if len(runs) > 1 else words, *scores])
    names = ["run, full state" if len(runs) > 1 else "state"]
    titles = [t for m in found for t in (m.heading, f"{m.label} − base")]
    digits = {m.heading: m.digits for m in found}
    counted = (_counted(s, scope) for run in runs if (s := run.scored(FULL, scope)))
    sizes = dict.fromkeys(counted)  # In the order of the runs.
    caption = f"{title} ({'; '.join(sizes)})"
    return Table.of(caption, names + titles, bases + rows, digits=digits)


def _scored_cells(
    scored: Scored, base: Scored | None, measure: Measure, best: float | None
) -> tuple[Any, Any]:
    value = scored.mean.get(measure.name)
    before = base.mean.get(measure.name) if base else None
    if value is None:
        return None, None
    top = best is not None and value == best
    change = None
    if before is not None:
        change = Mark(value - before, _difference(value, before, measure))
    return Mark(value, best=top), change


def _best(runs: Sequence[ReportRun], scope: str, found: Sequence[Measure]) -> dict[str, float]:
    made = {}
    for measure in found:
        full = [s.mean.get(measure.name) for run in runs if (s := run.scored(FULL, scope))]
        values = [value for value in full if value is not None]
        if measure.higher is not None and len(set(values)) > 1:
            made[measure.name] = max(values) if measure.higher else min(values)
    return made


def _against(runs: Sequence[ReportRun], scope: str, measure: Measure) -> Figure:
    rows = []
    for run in runs:
        full, base = run.scored(FULL, scope), run.scored(BASE, scope)
        if full and measure.name in full.mean:
            before = base.mean.get(measure.name) if base else None
            value = full.mean[measure.name]
            rows.append({"name": run.label, "series": run.arm, "x": value, "base": before})
    better = {True: "further right is better", False: "further left is better", None: ""}
    words = (
        f"Each dot is a run's full state, each grey tick its base model; {better[measure.higher]}"
    )
    table = Table.of(
        f"{measure.heading} on {SCOPE_WORDS[scope]}",
        ["run", "base", "full"],
        [[r["name"], r["base"], r["x"]] for r in rows],
        digits={"base": measure.digits, "full": measure.digits},
    )
    spec = charts.dots(rows, x=measure.axis, order=[run.label for run in runs], series=arms(runs))
    return Figure(
        f"{measure.label}: every run against the base model",
        words.rstrip("; ") + ".",
        spec,
        table,
        legend(arms(runs)),
    )


def _overview(runs: Sequence[ReportRun]) -> Table:
    rows = [
        [
            run.label,
            run.rule,
            run.seed,
            Mark(_played(run), _rounds(run)),
            run.scored_round,
            sum(run.clients.values()) or None,
            len(run.failed),
            sum(x.total_bytes_down + x.bytes_up for x in run.rounds) / 1e6,
            sum(x.total_seconds for x in run.rounds) / 60,
        ]
        for run in runs
    ]
    names = ["run", "rule", "seed", "rounds", "scored round", "clients", "failures"]
    digits = {"MB sent": 1, "minutes": 1}
    return Table.of("What was run", [*names, "MB sent", "minutes"], rows, digits=digits)


def _counted(scored: Scored, scope: str) -> str:
    word, whose = ("in", "group") if scope == "unseen" else ("of", "client")
    return f"{count(scored.examples, 'example')} {word} {count(scored.clients, whose)}"


def _value(value: float, measure: Measure) -> str:
    return plain(value, measure.digits)


def _difference(value: float, before: float, measure: Measure) -> str:
    return signed(value - before, measure.digits)
