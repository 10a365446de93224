"""The tables of what is spent: views under equal budgets, the cost of a target, and what the
training itself looked like."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from flexlora.comparing.findings import Findings
from flexlora.comparing.sentences import PART_WORDS, p_text, spread, spread_of
from flexlora.comparing.statistics import holm, interval, paired, permutation_test
from flexlora.comparing.table import ENERGIES, TRAINING
from flexlora.comparing.tables import type_title
from flexlora.comparing.views import VIEWS, By, Curves, budget, costs, curves, timed, under
from flexlora.formats.words import count
from flexlora.report.blocks import Block, Mark, Note, Table, signed

Values = Mapping[str, Mapping[int, float]]  # Arm → seed → value.

_DIAGNOSTICS = {
    "train_loss": "training loss",
    "cut": "cut off, ‖·‖_F",
    "agreement": "cosine between clients",
    "effective_rank": "effective rank",
    **{f"energy_{k}": f"energy, first {k}" for k in ENERGIES},
}


def views(findings: Findings) -> Iterator[Block]:
    """Equal rounds, bytes and tokens, simulated hours where clients have devices, and the cost of
    the target where the config has one.

    Budgets are set by what is asked about: controls are shown under them, and set none. Who trains
    in one place, or alone, needs no network and stands under no budget of bytes; who has no devices
    under none of simulated time.
    """
    measure, found = findings.measure, curves(findings.tidy, findings.measure.name)
    setting = set(found) - findings.controls
    if not setting:
        yield Note(
            f"No finished run has a round that was validated by {measure.label}, so arms are not "
            "compared under equal budgets; evaluation.metric says by what rounds are validated."
        )
        return
    columns: dict[str, Values] = {}
    for view in VIEWS:
        there = arms_of(findings, view, found)
        least = budget(found, view, setting & there)
        if least is not None:
            title = f"at {amount(view, least)}"
            values = under(found, view, least)
            columns[title] = {arm: values.get(arm, {}) for arm in findings.arms if arm in there}
    rows = [
        [
            arm,
            len(found.get(arm, {})),
            *(spread(values.get(arm, {}).values(), measure.digits) for values in columns.values()),
        ]
        for arm in findings.arms
    ]
    yield Table.of(
        f"{measure.heading} under equal budgets, {PART_WORDS['validation']}: at the last scored "
        "round that the smallest total of all cells pays for, those of controls aside",
        ["arm", "seeds", *columns],
        rows,
    )
    yield _differences(findings, columns)
    if findings.settings.target is not None:
        yield _target(findings, found, findings.settings.target)


def _differences(findings: Findings, columns: Mapping[str, Values]) -> Table:
    """The reference less each arm under each budget; all p of the table corrected together."""
    reference, digits = findings.reference, findings.measure.digits
    made = {
        (arm, title): paired(values.get(reference, {}), values.get(arm, {}))
        for arm in findings.arms
        if arm != reference
        for title, values in columns.items()
    }
    tested = {key: p for key, values in made.items() if (p := permutation_test(values))}
    corrected = dict(zip(tested, holm([p.value for p in tested.values()]), strict=True))
    asked = bool(findings.settings.primary)
    rows = []
    for arm in findings.arms:
        if arm == reference:
            continue
        cells = []
        for title in columns:
            difference = interval(made[arm, title])
            mark = None if difference is None else spread_of(difference, digits, signed)
            if mark is not None and asked:
                mark = Mark(mark.value, f"{mark.text} (p = {p_text(corrected[arm, title])})")
            cells.append(mark)
        rows.append([arm, *cells])
    caption = f"{reference} less the arm under these budgets, paired by seed"
    if asked:
        caption += "; p: paired permutation test, corrected after Holm over this table"
    return Table.of(caption, ["arm", *columns], rows)


def diagnostics(findings: Findings) -> Iterator[Table]:
    """Of the last round that has each; means over seeds. By round they stand in the tidy table."""
    last: dict[tuple[str, str, int], tuple[int, float]] = {}
    for row in findings.tidy.rows:
        if row.part == TRAINING and math.isfinite(row.value):
            what = f"{row.metric} {row.state}" if row.state in findings.types else row.metric
            key = (row.arm, what, row.seed)
            last[key] = max(last.get(key, (0, math.nan)), (row.round, row.value))
    wanted = _DIAGNOSTICS | {
        f"truncation {name}": f"lost at {type_title(findings, name)}" for name in findings.types
    }
    names = [name for name in wanted if any(name == what for _, what, _ in last)]
    rows = []
    for arm in findings.arms:
        cells = []
        for name in names:
            values = [x for (of, what, _), (_, x) in last.items() if (of, what) == (arm, name)]
            cells.append(spread(values, 3))
        if any(cells):
            rows.append([arm, *cells])
    if rows:
        yield Table.of(
            "Training, last round; medians over layers: effective rank, energy (the share of "
            "‖ΔW‖² in the largest singular values), and what is lost of ‖ΔW‖ at a client type's "
            "rank",
            ["arm", *(wanted[name] for name in names)],
            rows,
        )


def arms_of(findings: Findings, view: By, found: Curves) -> set[str]:
    """Those that spend anything of this."""
    if view == "bytes":
        return set(findings.tidy.federated)
    return timed(found) if view == "simulated" else set(found)


def amount(view: By, spent: float) -> str:
    """ "30 rounds", "12.3 MB", "1,234,567 tokens", "1.5 simulated hours"."""
    if view == "bytes":
        return f"{spent / 1e6:,.4g} MB"
    if view == "simulated":
        return f"{spent / 3600:,.4g} simulated hours"
    return count(round(spent), view.removesuffix("s"))


def _target(findings: Findings, found: Curves, target: float) -> Table:
    measure = findings.measure
    spent = costs(found, target, higher_is_better=bool(measure.higher))
    rows = []
    for arm in findings.arms:
        reached, of = spent.get(arm, ((), 0))
        hours = [cost.simulated / 3600 for cost in reached] if arm in timed(found) else ()
        sent = [cost.bytes / 1e6 for cost in reached] if arm in findings.tidy.federated else ()
        rows.append(
            [
                arm,
                Mark(len(reached), f"{len(reached)} of {of}"),
                spread([float(cost.rounds) for cost in reached], 1),
                spread(sent),
                spread([float(cost.tokens) for cost in reached], 0),
                *([spread(hours)] if timed(found) else []),
            ]
        )
    return Table.of(
        f"What it costs until {measure.heading} on {PART_WORDS['validation']} reaches {target:g}, "
        "of the seeds that reach it",
        [
            *("arm", "seeds that reach it", "rounds", "MB sent", "tokens"),
            *(["simulated hours"] if timed(found) else []),
        ],
        rows,
    )
