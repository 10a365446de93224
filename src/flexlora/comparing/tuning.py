"""Learning rates: every arm at each rate of one grid, which grows for all where any needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flexlora.comparing import plan
from flexlora.comparing.comparison import Comparison
from flexlora.comparing.folder import require_current
from flexlora.comparing.plan import Job
from flexlora.comparing.play import Player, last_score
from flexlora.comparing.tuned import Grid, Tuned, best_rate, next_grid
from flexlora.evaluation.metrics import get_metric

# Plays jobs to their ends; and what a job that was played came to, None where it broke down.
Play = Callable[[Sequence[Job]], None]
Score = Callable[[Job], float | None]


def tune(
    comparison: Comparison, out: Path, play: Play, score: Score, say: Callable[[str], None]
) -> Tuned:
    """Play the grid and note it in tuned.json; grow it, and play what is new, until the best rate
    of no arm lies at its edge, or it has grown enough.

    The same in every process that plays the folder, for it follows from what lies there.
    """
    settings = comparison.settings
    higher = get_metric(settings.tuned_by).higher_is_better
    grid = Grid(settings.rates)
    while True:
        jobs = plan.tuning(comparison, out, grid.rates)
        play(jobs)
        seen: dict[str, dict[float, list[float | None]]] = {}
        for job in jobs:
            assert job.rate is not None
            seen.setdefault(job.arm.name, {}).setdefault(job.rate, []).append(score(job))
        rates = {name: best_rate(by, higher_is_better=higher) for name, by in seen.items()}
        grown = next_grid(grid, rates)
        require_current(comparison, out)
        if grown == grid:
            say(f"learning rates: {', '.join(f'{n} {_words(r)}' for n, r in rates.items())}")
            tuned = Tuned(settings.tuned_by, grid, seen, rates)
            tuned.write(out)
            return tuned
        new = sorted(set(grown.rates) - set(grid.rates))
        say(f"a best rate lies at the edge: {', '.join(map(_words, new))} for all arms, too")
        grid = grown


def _words(rate: float | None) -> str:
    return "none" if rate is None else f"{rate:g}"


def score_of(player: Player, metric: str) -> Score:
    """What a run left; None for one that failed: at a rate that is too high, training breaks."""

    def score(job: Job) -> float | None:
        return last_score(job.folder, metric) if player.done(job) else None

    return score
