"""Whom the screens of a comparison left out, and how the full adapter does on what is theirs.

python experiments/hostile/left_out.py runs/hostile-facts > left_out.md

A client is left out where a screen took it out of half of the rounds or more. How the adapter does
without a screen and an attack, at the same seed, stands beside it. Hostile clients are counted
apart.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from flexlora.comparing.arms import slug
from flexlora.comparing.cells import cell_folder
from flexlora.comparing.comparison import read_comparison
from flexlora.runs.run_directory import Run

CLEAN = "clean · no screen"
ATTACK = "clients of [hostile] attack by "


def scores(run: Run, metric: str) -> dict[str, float]:
    """Client → what the full adapter scores on its own examples."""
    rows = (run.read_results() or {})["rows"]
    full = next(row for row in rows if row["state"] == "full")
    return {client["client"]: client[metric] for client in full["own"]["clients"]}


def left_out(run: Run) -> Counter[str]:
    """Client → rounds that it was left out of."""
    screened = [record.screened or {} for record in run.records()]
    return Counter(client for round in screened for client, x in round.items() if x.weight == 0)


def hostile(run: Run) -> set[str]:
    notes = [note for note in run.data["notes"] if ATTACK in note]
    return {name for note in notes for name in note.rpartition(": ")[2].split(", ")}


def line(arm: str, runs: list[Run], clean: list[Run], metric: str) -> str:
    caught = attacks = 0
    now: list[float] = []
    before: list[float] = []
    for run, without in zip(runs, clean, strict=True):
        out, liars, played = left_out(run), hostile(run), len(run.records())
        often = {client for client, rounds in out.items() if 2 * rounds >= played} - liars
        caught += sum(out[client] for client in liars)
        attacks += len(liars) * played
        now += [scores(run, metric)[client] for client in often]
        before += [scores(without, metric)[client] for client in often]
    share = f"{caught / attacks:.0%}" if attacks else "–"
    means = [f"{sum(found) / len(found):.1f}" if found else "–" for found in (now, before)]
    return f"| {arm} | {share} | {len(now)} | {' | '.join(means)} |"


def main(folder: str) -> None:
    out = Path(folder)
    comparison = read_comparison(out)
    settings = comparison.settings

    def runs(arm: str) -> list[Run]:
        return [Run.open(cell_folder(out, slug(arm), seed)) for seed in settings.seeds]

    name = settings.metric
    print(
        f"| arm | attacks left out | honest left out | their {name} | {name}, unscreened, clean |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    for arm in comparison.arms:
        print(line(arm.name, runs(arm.name), runs(CLEAN), name))


if __name__ == "__main__":
    main(*sys.argv[1:])
