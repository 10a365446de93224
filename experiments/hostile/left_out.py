"""Whom the screens of facts.toml left out, and what of theirs the full adapter knows.

python experiments/hostile/left_out.py runs/hostile-facts > left_out.md

An owner is left out where a screen took it out of half of the rounds or more. What it knew without
a screen and an attack, of the same seed, stands beside it. Hostile owners are counted apart.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

from flexlora.comparing.arms import slug
from flexlora.comparing.cells import cell_folder
from flexlora.comparing.comparison import read_comparison
from flexlora.runs.run_directory import Run

CLEAN = "clean · no screen"
HEAD = """| arm | attacks left out | honest left out, all seeds | bits of each | unscreened, clean |
| --- | ---: | ---: | ---: | ---: |"""


def bits(run: Run) -> dict[str, float]:
    """Owner → bits of its facts that the full adapter holds."""
    rows = (run.read_results() or {})["rows"]
    full = next(row for row in rows if row["state"] == "full")
    return {client["client"]: client["bits"] for client in full["own"]["clients"]}


def left_out(run: Run) -> Counter[str]:
    """Owner → rounds that it was left out of."""
    screened = [record.screened or {} for record in run.records()]
    return Counter(owner for round in screened for owner, x in round.items() if x.weight == 0)


def hostile(run: Run) -> set[str]:
    told = " ".join(run.data["notes"])
    return set(re.findall(r"owner-\d+", told)) if "[hostile] attack" in told else set()


def line(arm: str, runs: list[Run], clean: list[Run]) -> str:
    caught = attacks = 0
    known: list[float] = []
    before: list[float] = []
    for run, without in zip(runs, clean, strict=True):
        rounds, liars, holds, held = left_out(run), hostile(run), bits(run), bits(without)
        often = {owner for owner, n in rounds.items() if 2 * n >= len(run.records())} - liars
        caught += sum(rounds[owner] for owner in liars)
        attacks += len(liars) * len(run.records())
        known += [holds[owner] for owner in often]
        before += [held[owner] for owner in often]
    share = f"{caught / attacks:.0%}" if attacks else "–"
    if not known:
        return f"| {arm} | {share} | 0 | – | – |"
    mean, was = sum(known) / len(known), sum(before) / len(before)
    return f"| {arm} | {share} | {len(known)} | {mean:.1f} | {was:.1f} |"


def main(folder: str) -> None:
    out = Path(folder)
    comparison = read_comparison(out)

    def runs(arm: str) -> list[Run]:
        seeds = comparison.settings.seeds
        return [Run.open(cell_folder(out, slug(arm), seed)) for seed in seeds]

    print(HEAD)
    for arm in comparison.arms:
        print(line(arm.name, runs(arm.name), runs(CLEAN)))


if __name__ == "__main__":
    main(*sys.argv[1:])
