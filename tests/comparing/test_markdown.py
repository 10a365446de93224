"""table.md: every number in it follows from table.csv, by another way; and it is valid Markdown."""

from __future__ import annotations

import csv
import re
import shutil
import statistics
from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations, product
from math import sqrt
from pathlib import Path

import pytest

from flexlora.comparing.markdown import escaped, markdown
from flexlora.comparing.written import write_tables
from flexlora.report.blocks import Note, Section, Table

REFERENCE, OTHER, SEEDS = "flexlora", "fedit", 3
# Degrees of freedom → t of a two-sided 95 % interval.
T = {1: 12.7062047, 2: 4.30265273, 3: 3.18244631, 4: 2.77644511, 5: 2.57058184, 6: 2.44691185}
Lines = list[dict[str, str]]


@pytest.fixture(scope="module")
def written(compared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = Path(shutil.copytree(compared, tmp_path_factory.mktemp("written") / "out"))
    write_tables(out)
    return out


@pytest.fixture(scope="module")
def text(written: Path) -> str:
    return (written / "table.md").read_text()


@pytest.fixture(scope="module")
def lines(written: Path) -> Lines:
    return list(csv.DictReader((written / "table.csv").read_text().splitlines()))


def shown(x: float, digits: int = 3) -> str:
    return f"{abs(x):,.{digits}f}"


def spread(values: Iterable[float], digits: int = 3) -> set[str]:
    found = list(values)
    told = {shown(statistics.mean(found), digits)}
    if len(found) > 1:
        half = statistics.stdev(found) / sqrt(len(found))
        told.add(shown(T[len(found) - 1] * half, digits))
    return told


def clustered(lines: Lines, part: str, one: tuple[str, str], other: tuple[str, str]) -> set[str]:
    """Of two (arm, state): over clients, all seeds of one together."""
    values: dict[tuple[str, str], dict[tuple[str, str], tuple[int, float]]] = defaultdict(dict)
    for x in lines:
        if x["client"] and (x["part"], x["metric"], x["final"]) == (part, "loss", "True"):
            key = (x["seed"], x["client"])
            values[x["arm"], x["state"]][key] = (int(x["examples"]), float(x["value"]))
    assert values[one].keys() == values[other].keys()
    totals: dict[str, int] = defaultdict(int)
    for (seed, _), (examples, _) in values[one].items():
        totals[seed] += examples
    cells = [
        (client, examples / totals[seed] / SEEDS, value - values[other][seed, client][1])
        for (seed, client), (examples, value) in values[one].items()
    ]
    mean = sum(share * gap for _, share, gap in cells)
    sums: dict[str, float] = defaultdict(float)
    for client, share, gap in cells:
        sums[client] += share * (gap - mean)
    n = len(sums)
    half = T[n - 1] * sqrt(n / (n - 1) * sum(x * x for x in sums.values()))
    return {shown(mean), shown(half)}


def outcomes(lines: Lines) -> dict[tuple[str, ...], dict[str, float]]:
    """(arm, part, state, clients, category, metric, round where it is none) → seed → value."""
    found: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for x in lines:
        if x["client"]:
            continue
        at = "" if x["final"] == "True" else x["round"]
        key = ("arm", "part", "state", "clients", "category", "metric")
        found[(*(x[name] for name in key), at)][x["seed"]] = float(x["value"])
    return found


def p_of(differences: list[float]) -> float:
    signs = list(product((1, -1), repeat=len(differences)))
    sums = [abs(sum(s * x for s, x in zip(of, differences, strict=True))) for of in signs]
    return sum(x >= abs(sum(differences)) - 1e-9 for x in sums) / len(signs)


def budgets(lines: Lines) -> set[str]:
    """Of the three views, and of the target 5."""
    runs: dict[tuple[str, str], Lines] = defaultdict(list)
    for x in lines:
        if x["final"] == "False":
            runs[x["arm"], x["seed"]].append(x)
    cost = {
        "round": lambda x: int(x["round"]),
        "bytes": lambda x: int(x["bytes_up"]) + int(x["bytes_down"]),
        "tokens": lambda x: int(x["tokens"]),
    }
    scored = {
        run: [x for x in of if (x["part"], x["metric"]) == ("validation", "loss")]
        for run, of in runs.items()
    }
    arms = {arm for arm, _ in runs}
    told = set()
    ps = []
    for by in cost.values():
        last: dict[str, list[float]] = {}
        least = min(max(map(by, of)) for of in runs.values())
        told |= {f"{least:,}", f"{least / 1e6:,.4g}"}
        for arm in arms:
            within = [
                [float(x["value"]) for x in of if x["state"] == "full" and by(x) <= least]
                for (name, _), of in scored.items()
                if name == arm
            ]
            last[arm] = [values[-1] for values in within if values]
            told |= spread(last[arm])
        for arm in arms - {REFERENCE}:
            if len(last[arm]) == len(last[REFERENCE]) == SEEDS:
                pairs = list(zip(last[REFERENCE], last[arm], strict=True))
                told |= spread(x - y for x, y in pairs)
                ps.append(p_of([x - y for x, y in pairs]))
    told |= {f"{min(1.0, k * p):.3g}" for p in ps for k in range(1, len(ps) + 1)}  # Holm's.
    for arm in arms:
        firsts = [
            next((x for x in of if x["state"] == "full" and float(x["value"]) <= 5.0), None)
            for (name, _), of in scored.items()
            if name == arm
        ]
        reached = [x for x in firsts if x is not None]
        told |= {str(len(reached)), str(len(firsts))}
        if reached:
            told |= spread(map(cost["round"], reached), 1) | spread(map(cost["tokens"], reached), 0)
            told |= spread((cost["bytes"](x) / 1e6 for x in reached), 4)
    return told


def test_every_number_follows_from_the_csv(text: str, lines: Lines) -> None:
    values = outcomes(lines)
    known = (
        budgets(lines)
        | {"0", "1", "2", "3", "95"}
        | {f"{float(x['learning_rate']):g}" for x in lines}
    )
    for key, by_seed in values.items():
        known |= spread(by_seed.values())
        held = values.get((REFERENCE, *key[1:]))
        if held is not None and held.keys() == by_seed.keys():
            known |= spread(held[seed] - by_seed[seed] for seed in by_seed)
    compared = ("own", "full", "", "", "loss", "")
    of = {arm: values[arm, *compared] for arm in ("flexlora", "fedit", "mine, |a| *b*")}
    of["base"] = values["base", "own", "base", "", "", "loss", ""]
    known |= spread(of[REFERENCE][s] - of["base"][s] for s in of["base"])
    for part, metric in (("unseen", "loss"), ("own", "token_loss")):
        base = values["base", part, "base", "", "", metric, ""]
        whole = values[REFERENCE, part, "full", "", "", metric, ""]
        known |= spread(whole[seed] - base[seed] for seed in base)
    others = [("fedit", "full"), ("mine, |a| *b*", "full"), ("base", "base")]
    for part, other in product(("own", "unseen"), others):
        known |= clustered(lines, part, (REFERENCE, "full"), other)
    states = {arm: "base" if arm == "base" else "full" for arm in of}
    for one, other in combinations(states.items(), 2):
        known |= clustered(lines, "own", one, other)
        for metric in ("loss", "token_loss"):
            left, right = (values[a, "own", at, "", "", metric, ""] for a, at in (one, other))
            known |= spread(left[seed] - right[seed] for seed in left)
    ps = {a: p_of([of[REFERENCE][s] - x[s] for s in x]) for a, x in of.items() if a != REFERENCE}
    low, high = sorted((ps["base"], ps["mine, |a| *b*"]))
    corrected = [min(1.0, 2 * low), max(min(1.0, 2 * low), high)]
    known |= {f"{p:.3g}" for p in (ps[OTHER], *corrected)}
    cells = [
        cell
        for line in text.splitlines()
        if line.startswith("| ") and not line.startswith("| ---")
        for cell in re.split(r"(?<!\\)\|", line)[2:-1]
    ]
    numbers = [n.rstrip(",") for cell in cells for n in re.findall(r"\d[\d,.]*", cell)]
    titles = {"4", "8", "16", "32"}  # Ranks, and singular values that are counted.
    assert len(numbers) > 150
    assert set(numbers) - known - titles == set()
    first = text.splitlines()[2]
    assert f"p = {ps[OTHER]:.3g} (exact paired permutation test, all 8 sign flips)" in first
    for arm in (REFERENCE, OTHER):
        assert shown(statistics.mean(of[arm].values())) in first
    assert "n = 3 seeds; " in first


def test_its_tables_are_whole_and_the_primary_sentence_is_first(text: str) -> None:
    paragraphs = text.split("\n\n")
    assert paragraphs[0] == "# Comparison out"
    assert paragraphs[1].startswith("flexlora against fedit, loss on the clients' own test ")
    told = "(for trying things out: it knows a few hundred English words)."
    assert paragraphs[2] == f"Base model: tiny in float32 {told}"
    tables = [x.splitlines() for x in paragraphs if x.startswith("| ")]
    assert len(tables) >= 7
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
        assert len(widths) == 1, table
        assert re.fullmatch(r"\|( ---:? \|)+", table[1])
    captions = [x for x in paragraphs if x.startswith("**")]
    assert len(captions) == len(tables)
    assert r"mine, \|a\| \*b\*" in text
    assert text.endswith("|\n")


def test_what_others_wrote_is_no_markup() -> None:
    assert escaped("a|b_c*d<e>\u202e\n") == r"a\|b\_c\*d\<e\>\\u202e\\n"
    table = Table.of("c_1", ["x|y"], [["[l](u)"]] * 3, limit=2)
    assert markdown(Section("s", "S", (Note("<b>"), table)), "t`") == (
        "# t\\`\n\n\\<b\\>\n\n**c\\_1**\n\n| x\\|y |\n| --- |\n| \\[l\\](u) |\n| \\[l\\](u) |\n\n"
        "Not shown: 1 more row.\n"
    )
