"""How many clients of a run train at once: as its config says, or measured before it begins."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from flexlora.adapters import Adapter
from flexlora.config.config import Config
from flexlora.federation.engine import threads_of, workers_of
from flexlora.federation.sampling import sample
from flexlora.federation.setup import Setup
from flexlora.federation.streams import Streams
from flexlora.rules import Rule
from flexlora.runs.run_directory import Run
from flexlora.training import CohortSize, Visit, choose_cohort_size
from flexlora.training.cohort_size import LARGEST
from flexlora.training.memory import free_bytes

_SHARE = 0.8  # Of the free memory.
_HALVED = "clients_at_once_halved"


def choose(config: Config, setup: Setup, rule: Rule) -> CohortSize:
    """The number for these clients and this rule; measured once for all that it depends on.

    What the first clients of the first round would be sent is trained for a few steps, and thrown
    away.
    """
    if config.run.clients_at_once != "auto":
        return CohortSize(config.run.clients_at_once, ())
    asked = (rule.traits.origin, config.run.memory_gb, workers_of(config, setup))
    if asked not in setup.at_once:
        streams, schedule = Streams(config.federation.seed), setup.schedule()
        state = rule.init(setup.spec, streams.generator("init"))
        clients = sample(sorted(setup.train), schedule.clients, streams.generator("sample", 1))
        sent: dict[str, Adapter] = {}

        def received(client: str) -> Adapter:
            by_client, kind = rule.traits.sends == "client", setup.types[client]
            if by_client or kind not in sent:
                draws = streams.generator("send", 1, *([client] if by_client else []))
                ranks = rule.ranks_for(setup.spec, setup.ranks[kind])
                sent[kind] = rule.receive(rule.send(state, ranks, draws, client), {})
            return sent[kind]

        visits = [
            Visit(
                received(client),
                setup.train[client],
                schedule.recipe_for(1),
                torch.Generator().manual_seed(streams.derive("train", 1, client)),
            )
            for client in clients[:LARGEST]
        ]
        setup.model.set_delta(state.delta.layers)
        threads = torch.get_num_threads()
        torch.set_num_threads(threads_of(config, setup))
        try:
            setup.at_once[asked] = choose_cohort_size(
                setup.model, visits, origin=rule.traits.origin, budget_bytes=_budget(config, setup)
            )
        finally:
            torch.set_num_threads(threads)
    return setup.at_once[asked]


def _budget(config: Config, setup: Setup) -> int:
    """Bytes that a process may train with: as the config says, or a share of what is free."""
    if config.run.memory_gb is not None:
        return int(config.run.memory_gb * 1e9)
    device = setup.model.device
    shared = 1 if device.type == "cuda" else workers_of(config, setup)
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
    halved = [event["clients"] for event in run.read_events() if event.get("event") == _HALVED]
    return int(halved[-1]) if halved else began


def note_halved(run: Run, round: int, clients: int) -> str:
    """Write down that bit-identity ends here; the sentence for whoever watches."""
    run.append_event(
        {"event": _HALVED, "round": round, "clients": clients, "bit_identity": "waived"}
    )
    return (
        f"out of memory in round {round}: {clients} clients train at once from here on; the same "
        "config no longer gives the same bits"
    )
