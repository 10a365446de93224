"""What the cells came to, in plain lines, until there is a table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean

from flexlora.comparing.cells import Cell, finished
from flexlora.comparing.comparison import read_comparison
from flexlora.comparing.settings import CompareConfig
from flexlora.runs.results import BASE
from flexlora.runs.run_directory import Run


def summary(out: Path) -> list[str]:
    """A line for each arm: its finished seeds, and the metric's mean over them."""
    comparison, cells = read_comparison(out), finished(out)
    settings = comparison.settings
    where = f"{settings.metric}, {settings.part} examples, {settings.state} state"
    lines = [f"{where}; mean over the seeds that are finished:"]
    for arm in comparison.arms:
        found = [score(cell, settings) for cell in cells if cell.arm == arm.name]
        known = [x for x in found if x is not None]
        value = f"{fmean(known):.4g}" if known else "–"
        lines.append(f"  {arm.name}: {value} ({len(found)} of {len(settings.seeds)} seeds)")
    return lines


def score(cell: Cell, settings: CompareConfig) -> float | None:
    """The metric that is compared; None where the run has no such score."""
    record = json.loads((cell.folder / "results.json").read_text())
    if settings.part == "validation":
        if cell.config is None:
            return None
        rounds = [x for x in Run.open(cell.folder).records() if x.round == record["scored_round"]]
        return rounds[0].scores.get(settings.metric) if rounds else None
    state = BASE if cell.config is None else settings.state
    rows = [row for row in record["rows"] if row["state"] == state]
    part = rows[0][settings.part] if rows else None
    value = None if part is None else part["mean"].get(settings.metric)
    return value if value is not None and math.isfinite(value) else None
