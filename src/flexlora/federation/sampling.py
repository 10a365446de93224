"""Which clients take part in a round."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from flexlora.config.schedule import Schedule
from flexlora.federation.streams import Streams
from flexlora.runs.store import ClientStore


def sample(clients: Sequence[str], count: int, generator: torch.Generator) -> list[str]:
    """`count` different clients, uniformly, in order of id."""
    return sorted(_drawn(clients, generator)[:count])


def drawn(
    streams: Streams,
    schedule: Schedule,
    store: ClientStore,
    round: int,
    attempt: int = 1,
    before: Collection[str] = (),
) -> list[str]:
    """The clients that a round asks, in the order drawn: the first are those that it needs.

    before: those asked in earlier attempts at this round, who come after all others. Who rests is
    asked last, those whose rest ends first before others: in a first attempt only where there would
    be fewer than `min_clients`, in later ones where there is room. Drawn by round and attempt, so
    that a resumed run asks the same ones; more are asked by `over_sample` without a change of who
    comes first.
    """
    names = ("sample", round) if attempt == 1 else ("sample", round, attempt)
    awake = [x for x in store.clients if x not in store.resting]
    order = _drawn(awake, streams.generator(*names))
    order.sort(key=lambda client: client in before)
    order += sorted(store.resting, key=lambda client: (store.resting[client], client))
    there = awake if attempt == 1 else order
    count = max(schedule.asks(len(there)), schedule.min_clients)
    return order[:count]


def _drawn(clients: Sequence[str], generator: torch.Generator) -> list[str]:
    order = sorted(clients)
    return [order[i] for i in torch.randperm(len(order), generator=generator).tolist()]
