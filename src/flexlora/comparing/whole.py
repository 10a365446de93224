"""A comparison from its first run to its last: rates are tuned, then the cells are played."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flexlora.comparing import plan
from flexlora.comparing.cells import finished
from flexlora.comparing.comparison import Comparison
from flexlora.comparing.failures import Failure, Failures
from flexlora.comparing.folder import begun_as
from flexlora.comparing.play import Player, Watcher
from flexlora.comparing.tuned import rate_of
from flexlora.comparing.tuning import score_of, tune
from flexlora.errors import RunError
from flexlora.federation import Setup


def play(
    comparison: Comparison,
    out: Path,
    watcher: Watcher,
    *,
    failures: Failures,
    like: Setup | None = None,
) -> dict[str, Failure]:
    """Play what is not finished in OUT, which `folder.begin` has begun; safe to stop at any time.

    failures: as this process knows them; like: a setup whose model and examples are used.
    Returns what failed, each run by its path below OUT; a tuning run whose training broke down is
    no failure, unless its arm has none that did not.
    """
    player = Player(comparison, out, watcher, failures, like)
    settings = comparison.settings
    rates: Mapping[str, float | None]
    if settings.tuned:
        score = score_of(player, settings.tuned_by)
        tuned = tune(comparison, out, player.play, score, watcher.notes)
        rates = {name: rate for name, rate in tuned.rates.items() if rate is not None}
        untuned = {arm.name: None for arm in comparison.played if arm.name not in rates}
        for job in plan.cells(comparison, out, untuned):
            try:
                rate_of(out, tuned, job.arm.name)
            except RunError as error:
                watcher.fails(job, failures.add(job.key(out), error))
    else:
        rates = {arm.name: next(iter(settings.rates), None) for arm in comparison.played}
    player.play(plan.cells(comparison, out, rates))
    return {run: found for run, found in failures.now().items() if not found.broke_down(run)}


def left(comparison: Comparison, out: Path) -> bool:
    """Whether OUT lacks finished cells of this comparison, or does not hold it as it is."""
    cells = len(comparison.arms) * len(comparison.settings.seeds)
    return not begun_as(comparison, out) or len(finished(out)) < cells
