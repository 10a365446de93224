"""Which engine a run's config asks for: this process, or workers beside it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import torch

from flexlora.config.config import Config
from flexlora.config.settings import played_screens
from flexlora.engines.cohorts import Halved
from flexlora.engines.in_process import InProcess
from flexlora.engines.worker import Equipment
from flexlora.engines.workers import Workers
from flexlora.errors import RunError
from flexlora.evaluation.metric_file import sent_metric
from flexlora.evaluation.metrics import resolve_metrics
from flexlora.federation.setup import Setup
from flexlora.rules import Rule
from flexlora.training.memory import return_what_is_freed


def require_begun() -> None:
    """Raise RunError in a worker process that still imports the script of the one that made it."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RunError(
            "this process is a worker and imports the script anew; put what trains under "
            "if __name__ == '__main__'"
        )


def spare_memory(config: Config) -> None:
    """Have this process return what it frees at once, where memory is limited by the config."""
    if config.run.memory_gb is not None:
        return_what_is_freed()


def workers_of(setup: Setup) -> int:
    """Processes that train. auto: one for each GPU where the model is on one, else this one."""
    config = setup.config
    if config.run.workers != "auto":
        return config.run.workers
    return max(1, torch.cuda.device_count()) if setup.model.device.type == "cuda" else 1


def threads_of(setup: Setup) -> int:
    """CPU threads of each process that trains."""
    config = setup.config
    if config.run.threads is not None:
        return config.run.threads
    return max(1, setup.threads // workers_of(setup))


def make_engine(
    setup: Setup, rule: Rule, *, cohort: int, halved: Halved, memory: Path | None = None
) -> InProcess | Workers:
    """The engine of a run, not begun yet; close it in the end.

    memory: the folder for what clients remember, where the rule has them remember anything.
    """
    config, count = setup.config, workers_of(setup)
    examples, settings = setup.examples, setup.settings.validation
    if count == 1:
        return InProcess(
            setup.model,
            examples.train,
            rule,
            examples.held_out,
            settings,
            cohort=cohort,
            halved=halved,
            memory=memory,
            screens=played_screens(config),
        )
    device = setup.model.device
    devices = max(1, torch.cuda.device_count())
    equipment = [
        Equipment(
            config.model,
            f"cuda:{place % devices}" if device.type == "cuda" else str(device),
            rule,
            settings,
            threads_of(setup),
            frugal=config.run.memory_gb is not None,
            memory=memory,
            screens=played_screens(config),
            metrics=tuple(map(sent_metric, resolve_metrics(settings.metrics))),
        )
        for place in range(count)
    ]
    return Workers(equipment, examples.train, examples.held_out, cohort=cohort, halved=halved)
