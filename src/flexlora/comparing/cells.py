"""A comparison's folder: where its cells lie, and which of them are finished."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flexlora.comparing.comparison import Comparison, read_comparison
from flexlora.comparing.tuned import read_tuned
from flexlora.config.config import Config
from flexlora.errors import FlexLoRAError
from flexlora.runs.once import read_config

CELLS, TUNING, SET_ASIDE = "cells", "tuning", "set-aside"


@dataclass(frozen=True)
class Cell:
    """One arm at one seed, finished.

    folder: its run directory; config: that run's. Of the base model, which is never trained, the
    folder is that of another arm's run at the seed, whose results score the base too, and config
    is None.
    """

    arm: str
    seed: int
    folder: Path
    config: Config | None


def finished(out: Path) -> list[Cell]:
    """The cells in OUT that are finished, in the order of its arms, then seeds; reads OUT alone.

    A run that was played at another learning rate than the one that its arm has by now is none.
    Raises RunError for a folder that holds no comparison.
    """
    comparison = read_comparison(out)
    rates = _rates(comparison, out)
    cells: list[Cell] = []
    for arm in comparison.arms:
        if not arm.played:
            continue
        for seed in comparison.settings.seeds:
            folder = cell_folder(out, arm.slug, seed)
            config = _config_of(folder)
            if config is None or rates.get(arm.name) not in (None, config.training.learning_rate):
                continue
            cells.append(Cell(arm.name, seed, folder, config))
    order = {arm.name: place for place, arm in enumerate(comparison.arms)}
    bare = [
        Cell(arm.name, seed, first, None)
        for arm in comparison.arms
        if not arm.played
        for seed in comparison.settings.seeds
        if (first := next((cell.folder for cell in cells if cell.seed == seed), None)) is not None
    ]
    return sorted([*cells, *bare], key=lambda cell: order[cell.arm])


def cell_folder(out: Path, slug: str, seed: int) -> Path:
    return out / CELLS / slug / str(seed)


def tuning_folder(out: Path, slug: str, rate: float, seed: int) -> Path:
    return out / TUNING / slug / repr(rate) / str(seed)


def _rates(comparison: Comparison, out: Path) -> dict[str, float | None]:
    """Arm → the rate that its cells have; without an entry where any will do."""
    if comparison.settings.tuned:
        tuned = read_tuned(out)
        return {} if tuned is None else dict(tuned.rates)
    rate = next(iter(comparison.settings.rates), None)
    return {arm.name: rate for arm in comparison.arms}


def _config_of(folder: Path) -> Config | None:
    """The config of a finished run; None where there is none, or it cannot be read."""
    if not (folder / "results.json").is_file():
        return None
    try:
        return read_config(folder)
    except FlexLoRAError:
        return None
