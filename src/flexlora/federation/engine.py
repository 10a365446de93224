"""Which engine a run's config asks for: this process, or workers beside it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

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
from flexlora.models.device import AUTO, usable_gpus
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


def devices_of(setup: Setup) -> list[str]:
    """Where processes train, in turn: on every GPU where the config leaves open on which, else
    where the model is."""
    device = setup.model.device
    if device.type == "cuda" and setup.config.model.device in (AUTO, "cuda"):
        return [f"cuda:{place}" for place in range(usable_gpus())]
    return [str(device)]


def workers_of(setup: Setup) -> int:
    """Processes that train. auto: one for each of its devices."""
    config = setup.config
    return len(devices_of(setup)) if config.run.workers == "auto" else config.run.workers


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
    devices = devices_of(setup)
    equipment = [
        Equipment(
            config.model,
            devices[place % len(devices)],
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
