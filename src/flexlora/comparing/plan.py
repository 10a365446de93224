"""Which runs a comparison asks for, in order of usefulness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexlora.comparing.arms import Arm
from flexlora.comparing.cells import cell_folder, tuning_folder
from flexlora.comparing.comparison import Comparison
from flexlora.comparing.settings import CompareConfig
from flexlora.config.config import Config


@dataclass(frozen=True, eq=False)
class Job:
    """One run to play. rate: its learning rate where it is there to tune, else None."""

    arm: Arm
    seed: int
    folder: Path
    config: Config
    rate: float | None = None

    @property
    def title(self) -> str:
        rate = "" if self.rate is None else f", learning rate {self.rate:g}"
        return f"{self.arm.name}, seed {self.seed}{rate}"

    def key(self, out: Path) -> str:
        """Its path below OUT, which is what failures and locks call it."""
        return self.folder.relative_to(out).as_posix()


def cells(comparison: Comparison, out: Path, rates: Mapping[str, float | None]) -> list[Job]:
    """All arms of the first seed, then of the second, …

    rates: arm → its learning rate; None for that of its own tables.
    """
    return [
        Job(
            arm,
            seed,
            cell_folder(out, arm.slug, seed),
            arm.config(seed, rates[arm.name]),
        )
        for seed in comparison.settings.seeds
        for arm in comparison.played
        if arm.name in rates
    ]


def tuning(comparison: Comparison, out: Path, rates: Sequence[float]) -> list[Job]:
    """Every arm at each of these rates on the tuning seeds: validated once, after the last round;
    nothing that is to be compared is read."""
    return [
        Job(
            arm,
            seed,
            tuning_folder(out, arm.slug, rate, seed),
            tuning_config(arm, seed, rate, comparison.settings),
            rate,
        )
        for seed in comparison.settings.tuning_seeds
        for arm in comparison.played
        for rate in rates
    ]


def tuning_config(arm: Arm, seed: int, rate: float, settings: CompareConfig) -> Config:
    """Raises ConfigError for an arm that cannot be validated so."""
    rounds = settings.tuning_rounds or arm.config(seed).federation.rounds
    scored = {"every": rounds, "metric": settings.tuned_by, "unseen": False, "predictions": 0}
    federation = {"rounds": rounds, "patience": 0}
    return arm.config(seed, rate, {"federation": federation, "evaluation": scored})
