"""How many clients of a run train at once: as its config says, by a rule, or measured before it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from flexlora.allocation.memory import LOGITS
from flexlora.federation.engine import devices_of, threads_of, workers_of
from flexlora.federation.foreseen import cohort_peak
from flexlora.federation.sending import Sender
from flexlora.federation.setup import Setup
from flexlora.formats.json_fields import whole
from flexlora.rules import Rule
from flexlora.runs.events import Halved
from flexlora.runs.run_directory import Run
from flexlora.seeds import seeded
from flexlora.training import CohortSize, Load, Visit, choose_cohort_size, clients_that_share
from flexlora.training.memory import free_bytes, total_bytes
from flexlora.training.sharing import LARGEST

_SHARE = 0.8  # Of the free memory, where a trial tells how much is taken.
_PLENTY = 1 << 62
_AT_MOST = 2  # Times the rough estimate: what ranks add to a pass is less than it.
_LOGITS_BYTES = 3 * 4 * LOGITS  # Of all clients together, whatever the vocabulary.
_CERTAIN = 0.5  # Of all memory, where that is estimated and others may need the rest.


def choose(setup: Setup, rule: Rule) -> CohortSize:
    """The number for these clients and this rule.

    Another number rounds differently, so "auto" follows from shapes, config and the memory that
    there is, and not from how fast this machine is now or what else it does: see
    `clients_that_share`. "measured" has a few steps timed, and is another number perhaps each time.
    """
    asked = setup.config.run.clients_at_once
    if asked == "auto":
        load, budget = load_of(setup, rule), _certain_budget(setup)
        together = -(-setup.settings.schedule.clients // workers_of(setup))
        return CohortSize(_sharing(setup, rule, load, together, budget), ())
    if asked == "measured":
        return _measured(setup, rule)
    return CohortSize(asked, ())


def _sharing(setup: Setup, rule: Rule, load: Load, clients: int, budget: int) -> int:
    """As many as tokens allow, and fit: a rough estimate from above where memory is plenty, else
    the model that plans and dry runs tell. That plays a step, which takes seconds."""
    processes = _on_one_device(setup)
    many = clients_that_share(load, clients=clients, budget_bytes=_PLENTY, processes=processes)
    if _AT_MOST * many * load.peak_bytes + _LOGITS_BYTES <= budget:
        return many
    if cohort_peak(setup, rule, 1) is None:
        return clients_that_share(load, clients=clients, budget_bytes=budget, processes=processes)
    while many > 1 and (cohort_peak(setup, rule, many) or 0.0) > budget:
        many = 1 << ((many - 1).bit_length() - 1)  # The next power of two below.
    return many


def load_of(setup: Setup, rule: Rule) -> Load:
    """What a client of this federation takes of a pass."""
    size = setup.settings.schedule.recipe.batch_size
    tokens = batches = heaviest = 0
    for examples in setup.examples.train.values():
        lengths = sorted((len(x.prompt) + len(x.response) for x in examples), reverse=True)
        tokens += sum(lengths)
        batches += -(-len(lengths) // size)
        heaviest = max(heaviest, sum(lengths[:size]))
    spec, model = setup.spec, setup.model
    ranks = spec.highest if rule.traits.mixed_ranks else spec.lowest
    floats = (p.element_size() for p in model.model.parameters() if p.is_floating_point())
    return Load(
        tokens=tokens / batches,
        heaviest=heaviest,
        width=model.width,
        number_bytes=next(floats, 4),
        adapter=sum((x.m + x.n) * ranks[x.name] for x in spec.layers),
        origin=rule.traits.origin,
    )


def _measured(setup: Setup, rule: Rule) -> CohortSize:
    """Measured once for all that it depends on.

    What the first clients of the first round would be sent is trained for a few steps, and thrown
    away.
    """
    asked = (
        rule.traits.origin,
        tuple((setup.spec.highest if rule.traits.mixed_ranks else setup.spec.lowest).items()),
        rule.trains(1),
        setup.config.run.memory_gb,
        workers_of(setup),
        threads_of(setup),
        setup.settings.schedule,
    )
    ranks = tuple(sorted(setup.roster.types.items())), repr(setup.roster.ranks)
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
            setup.model, visits, origin=rule.traits.origin, budget_bytes=_free_budget(setup)
        )
    finally:
        torch.set_num_threads(threads)


def _free_budget(setup: Setup) -> int:
    """Bytes that a process may train with: as the config says, or a share of what is free now."""
    return _budget(setup) or int(_SHARE * free_bytes(setup.model.device)) // _on_one_device(setup)


def _certain_budget(setup: Setup) -> int:
    """The same, but of all that there is, less a model: no other program changes it."""
    weights = sum(p.numel() * p.element_size() for p in setup.model.model.parameters())
    there = int(_CERTAIN * total_bytes(setup.model.device)) // _on_one_device(setup)
    return _budget(setup) or there - weights


def _budget(setup: Setup) -> int | None:
    """A process's part of what the config says, at least a byte; None where it says nothing."""
    asked = setup.config.run.memory_gb
    return None if asked is None else max(1, int(asked * 1e9) // workers_of(setup))


def _on_one_device(setup: Setup) -> int:
    """Processes that share a device and its memory; GPUs have theirs apart."""
    return -(-workers_of(setup) // len(devices_of(setup)))


def resolved(size: CohortSize) -> dict[str, Any]:
    """For resolved.toml."""
    tried = [{k: v for k, v in asdict(x).items() if v is not None} for x in size.tried]
    return {"clients_at_once": size.clients, "clients_at_once_tried": tried}


def read(run: Run) -> int:
    """What a run goes on with: the number it began with, or what out of memory has left of it."""
    with run.undamaged("resolved.toml"):
        began = whole(run.resolved, "clients_at_once")
    halved = run.events(Halved)
    return halved[-1].clients if halved else began
