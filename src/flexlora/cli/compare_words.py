"""What people are told of a comparison while it is played: a line for what is worth one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, final

from flexlora.cli.console import Unread, complain, say
from flexlora.cli.ends import ends
from flexlora.cli.standing_words import clock
from flexlora.comparing.cells import Cell, finished
from flexlora.comparing.comparison import FILE, Comparison
from flexlora.comparing.findings import score
from flexlora.comparing.plan import Job
from flexlora.comparing.play import last_score
from flexlora.formats.refused import from_disk
from flexlora.formats.words import count
from flexlora.runs.events import Event, RoundEnded

if TYPE_CHECKING:
    from flexlora.federation.observers import Observer

_EVERY = 10.0  # Seconds between two lines about rounds.


@final
class Words:
    """The watcher of `flexlora compare`."""

    def __init__(self, comparison: Comparison) -> None:
        self.settings = comparison.settings
        self._began = 0.0

    def observer(self, job: Job) -> Observer:
        return _Rounds(job)

    def begins(self, job: Job, done: int, of: int) -> None:
        self._began = time.monotonic()
        going_on = "goes on" if job.folder.exists() else "begins"
        say(f"[{done} of {of} done] {job.title}: {going_on}")

    def ends(self, job: Job) -> None:
        metric = self.settings.metric
        if job.rate is None:
            value = score(Cell(job.arm.name, job.seed, job.folder, job.config), self.settings)
        else:
            value = last_score(job.folder, metric)
        told = "–" if value is None else f"{value:.4g}"
        say(f"{job.title}: {metric} {told}, {clock(time.monotonic() - self._began)}")

    def fails(self, job: Job, reason: str) -> None:
        complain(f"flexlora: {job.title} failed: {reason}")

    def waits(self, others: int) -> None:
        say(f"waiting for {count(others, 'run')} that other processes play")

    def notes(self, text: str) -> None:
        say(text)

    def ends_all(self, error: Exception) -> bool:
        """What a stop became on its way, nobody to read what is told, or a disk that takes no more:
        the next run would end by it, too, after all its training."""
        return ends.stopped is not None or isinstance(error, Unread) or from_disk(error)


@final
class _Rounds:
    def __init__(self, job: Job) -> None:
        self.job = job
        self._told = time.monotonic()

    def told(self, event: Event) -> None:
        if ends.stopped is not None:  # A library has swallowed it: nothing more is committed.
            raise KeyboardInterrupt
        if isinstance(event, RoundEnded) and time.monotonic() - self._told > _EVERY:
            self._told = time.monotonic()
            record, rounds = event.record, self.job.config.federation.rounds
            scores = "".join(f", validation {n} {v:.4g}" for n, v in record.scores.items())
            say(
                f"{self.job.title}: round {record.round}/{rounds}, "
                f"train loss {record.train_loss:.3f}{scores}"
            )


def plan_lines(comparison: Comparison, out: Path) -> list[str]:
    """How many runs there are, in words, and how many are done in OUT."""
    settings, arms = comparison.settings, len(comparison.played)
    lines = [f"arms: {', '.join(arm.name for arm in comparison.arms)}"]
    cells = arms * len(settings.seeds)
    lines.append(f"{count(arms, 'arm')} to play on {count(len(settings.seeds), 'seed')}")
    tuning = arms * len(settings.rates) * len(settings.tuning_seeds) if settings.tuned else 0
    if tuning:
        lines.append(
            f"tuning: {len(settings.rates)} learning rates on "
            f"{count(len(settings.tuning_seeds), 'seed')}, {count(tuning, 'run')}, more where the "
            "grid grows"
        )
    lines.append(f"runs: {cells + tuning}")
    if (out / FILE).is_file():
        done = sum(cell.config is not None for cell in finished(out))
        lines.append(f"finished in {out}: {done} of {cells} runs that count")
    if settings.primary:
        lines.append(f"primary comparison: {settings.primary[0]} against {settings.primary[1]}")
    return lines
