"""The tables of a comparison: scores, differences, by owner, by category."""

from __future__ import annotations

from collections.abc import Iterator

from flexlora.comparing.findings import Findings, Pair
from flexlora.comparing.sentences import CLUSTERS, PART_WORDS, p_text, spread, spread_of
from flexlora.comparing.statistics import Interval
from flexlora.comparing.table import OWN_RANK, TUNED, VALIDATION
from flexlora.report.blocks import Mark, Table, plain, signed
from flexlora.runs.results import FULL, STATE_WORDS


def scores(findings: Findings, part: str) -> Iterator[Table]:
    """Arms × (the full state, what each client type is handed), and the reference less each arm.

    Nothing where the part has no scores.
    """
    measure = findings.measure
    states = [FULL, *findings.types] if part != "validation" else [FULL]
    found = {state: findings.values(part, state) for state in states}
    if not any(found.values()):
        return
    compared = _compared(findings, part)
    pairs = findings.pairs(part, compared)
    tested = any(pair.p is not None for pair in pairs.values())
    grouped = any(pair.clustered is not None for pair in pairs.values())
    rows = []
    for arm in findings.arms:
        cells = [spread(found[state].get(arm, {}).values(), measure.digits) for state in states]
        n = len(found[compared].get(arm, {}))
        pair = pairs.get(arm)
        row = [arm, _rate(findings, arm), n, *cells]
        row.append(None if pair is None else _difference(pair.difference, measure.digits))
        if grouped:
            row.append(None if pair is None else _difference(pair.clustered, measure.digits))
        rows.append([*row, *([_p(pair)] if tested else [])])
    titles = [STATE_WORDS[FULL], *(type_title(findings, name) for name in findings.types)]
    columns = ["arm", "learning rate", "seeds", *titles[: len(states)]]
    columns.append(f"{findings.reference} less the arm")
    caption = f"{measure.heading} on {PART_WORDS[part]}: mean ± half of the 95 % t interval"
    if compared != FULL:
        caption += f"; seeds and differences are of {compared}"
    if grouped:
        columns.append(f"the same, clustered by {CLUSTERS[part]}")
        caption += f"; clustered: the interval over {CLUSTERS[part]}s, at these seeds"
    if tested:
        columns.append("p")
        caption += "; p: paired permutation test, all but the primary corrected after Holm"
    yield Table.of(caption, columns, rows)


def on_clients(findings: Findings) -> Iterator[Table]:
    """What every client scored at its own rank, on its own held-out part; arms that have none of it
    are left out."""
    digits = findings.measure.digits
    found = {state: findings.values(VALIDATION, state) for state in (OWN_RANK, TUNED)}
    states = [state for state, values in found.items() if values]
    if not states:
        return
    pairs = findings.pairs(VALIDATION, OWN_RANK)
    rows = []
    for arm in findings.arms:
        if arm not in found[OWN_RANK]:
            continue
        cells = [spread(found[state].get(arm, {}).values(), digits) for state in states]
        pair = pairs.get(arm)
        gap = None if pair is None else _difference(pair.difference, digits)
        rows.append([arm, _rate(findings, arm), len(found[OWN_RANK][arm]), *cells, gap])
    yield Table.of(
        f"{findings.measure.heading} as the clients score it, each at its own rank on its own "
        "held-out part, after the scored round: mean ± half of the 95 % t interval",
        ["arm", "learning rate", "seeds", *states, f"{findings.reference} less the arm"],
        rows,
    )
    yield from differences(findings, VALIDATION, OWN_RANK)


def differences(findings: Findings, part: str, state: str = "") -> Iterator[Table]:
    """Each arm less each before it, with both intervals; nothing where `scores` has all of them.

    state: "" for the compared one.
    """
    state = state or _compared(findings, part)
    found = findings.values(part, state)
    arms = [arm for arm in findings.arms if arm in found]
    if len(arms) < 3:
        return
    digits = findings.measure.digits
    pairs = findings.all_pairs(part, state)
    if not any(pair.difference for pair in pairs.values()):
        return
    before, after = arms[:-1], arms[1:]
    rows = [[one, *(_both(pairs.get((one, other)), digits) for other in before)] for one in after]
    where = "clients, at their own ranks" if state == OWN_RANK else PART_WORDS[part]
    caption = f"{findings.measure.heading} on {where}: the row's arm less the column's"
    if any(pair.clustered for pair in pairs.values()):
        caption += f"; in brackets half of the interval clustered by {CLUSTERS[part]}"
    yield Table.of(caption, ["less", *before], rows)


def owners(findings: Findings) -> Iterator[Table]:
    """What clients of each type are handed, on their own examples.

    Nothing where no run tells whose examples are whose.
    """
    digits = findings.measure.digits
    handed = {name: findings.values("own", name, clients=name) for name in findings.types}
    rows = [
        [
            arm,
            *(spread(handed[name].get(arm, {}).values(), digits) for name in findings.types),
        ]
        for arm in findings.arms
    ]
    if any(handed.values()):
        yield Table.of(
            f"{findings.measure.heading} by owner: what clients of each type are handed, on "
            "their own examples alone",
            ["arm", *(type_title(findings, name) for name in findings.types)],
            rows,
        )


def categories(findings: Findings, part: str) -> Iterator[Table]:
    """A row a category, a column an arm: the compared state, means over seeds."""
    names = findings.categories(part)
    if len(names) < 2:
        return
    asked, digits = findings.settings, findings.measure.digits
    rows = []
    for name in names:
        found = findings.values(part, asked.state, category=name)
        rows.append([name, *(spread(found.get(arm, {}).values(), digits) for arm in findings.arms)])
    caption = f"{findings.measure.heading} by category, {PART_WORDS[part]}"
    yield Table.of(caption, ["category", *findings.arms], rows)


def type_title(findings: Findings, name: str) -> str:
    ranks = findings.types[name]
    return f"{name} (rank {ranks})" if ranks else name


def _compared(findings: Findings, part: str) -> str:
    """The state whose differences are told: the config's, where the part was scored in it."""
    asked = findings.settings.state
    return asked if part != "validation" and asked in findings.types else FULL


def _rate(findings: Findings, arm: str) -> Mark | None:
    rate = findings.tidy.rates.get(arm)
    return None if rate is None else Mark(rate, f"{rate:g}")


def _difference(found: Interval | None, digits: int) -> Mark | None:
    return None if found is None else spread_of(found, digits, signed)


def _both(pair: Pair | None, digits: int) -> Mark | None:
    """ "−0.500 ± 3.177 (± 12.706)": over seeds, and clustered."""
    if pair is None or pair.difference is None:
        return None
    mark = spread_of(pair.difference, digits, signed)
    if pair.clustered is None or pair.clustered.half is None:
        return mark
    return Mark(mark.value, f"{mark.text} (± {plain(pair.clustered.half, digits)})")


def _p(pair: Pair | None) -> Mark | None:
    if pair is None or pair.p is None:
        return None
    if pair.corrected is None:
        return Mark(pair.p.value, f"{p_text(pair.p.value)}, primary")
    return Mark(pair.corrected, p_text(pair.corrected))
