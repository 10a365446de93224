"""How many clients of a run train at once: as its config says, or measured before it begins."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from flexlora.federation.engine import threads_of, workers_of
from flexlora.federation.sending import Sender
from flexlora.federation.setup import Setup
from flexlora.rules import Rule
from flexlora.runs.events import Halved
from flexlora.runs.run_directory import Run
from flexlora.seeds import seeded
from flexlora.training import CohortSize, Visit, choose_cohort_size
from flexlora.training.cohort_size import LARGEST
from flexlora.training.memory import free_bytes

_SHARE = 0.8  # Of the free memory.


def choose(setup: Setup, rule: Rule) -> CohortSize:
    """The number for these clients and this rule; measured once for all that it depends on.

    What the first clients of the first round would be sent is trained for a few steps, and thrown
    away.
    """
    config = setup.config
    if config.run.clients_at_once != "auto":
        return CohortSize(config.run.clients_at_once, ())
    asked = (
        rule.traits.origin,
        rule.traits.mixed_ranks,
        rule.trains(1),
        config.run.memory_gb,
        workers_of(setup),
        setup.settings.schedule.recipe,
    )
    ranks = tuple(sorted(setup.roster.types.items())), str(setup.roster.mix)
    return setup.ground.once(("at once", *asked, *ranks), lambda: _measure(setup, rule))


def _measure(setup: Setup, rule: Rule) -> CohortSize:
    sender = Sender(rule, setup.settings.schedule, setup.streams)
    state, store = sender.begin(setup.spec), setup.roster.fresh_store()
    sending = sender.training(state, store)
    visits = [
        Visit(
            rule.receive(sending.sent[job.client], {}),
            setup.examples.train[job.client],
            job.recipe,
            seeded(job.seed),
        )
        for job in sending.jobs[:LARGEST]
    ]
    setup.model.set_delta(state.delta.layers)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads_of(setup))
    try:
        return choose_cohort_size(
            setup.model, visits, origin=rule.traits.origin, budget_bytes=_budget(setup)
        )
    finally:
        torch.set_num_threads(threads)


def _budget(setup: Setup) -> int:
    """Bytes that a process may train with: as the config says, or a share of what is free."""
    config = setup.config
    if config.run.memory_gb is not None:
        return int(config.run.memory_gb * 1e9)
    device = setup.model.device
    shared = 1 if device.type == "cuda" else workers_of(setup)
    return int(_SHARE * free_bytes(device)) // shared


def resolved(size: CohortSize) -> dict[str, Any]:
    """For resolved.toml."""
    tried = [{k: v for k, v in asdict(x).items() if v is not None} for x in size.tried]
    return {"clients_at_once": size.clients, "clients_at_once_tried": tried}


def read(run: Run) -> int:
    """What a run goes on with: the number it began with, or what out of memory has left of it."""
    with run.undamaged("resolved.toml"):
        began = int(run.resolved["clients_at_once"])
        if began < 1:
            raise ValueError(began)
    halved = run.events(Halved)
    return halved[-1].clients if halved else began
