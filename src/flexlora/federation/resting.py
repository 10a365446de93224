"""Clients that fail again and again: they rest for some rounds, and are named."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from flexlora.config.schedule import Schedule
from flexlora.runs.events import Rested
from flexlora.runs.store import ClientStore


@dataclass(frozen=True)
class Answers:
    """Of one attempt: who gave what can be used, and who failed."""

    good: Collection[str]
    failed: Collection[str]


def rest(
    store: ClientStore, schedule: Schedule, round: int, attempts: Sequence[Answers]
) -> list[Rested]:
    """Note in the store who failed in this round, and who rests after it; these, in order of id.

    A client is asked as often as a round has attempts, and each failure counts. A good answer ends
    the row, a rest does not: who fails again after it rests again at once.
    """
    if not schedule.rest_after:
        return []
    for client, until in list(store.resting.items()):
        if until <= round:
            del store.resting[client]
    for attempt in attempts:
        for client in attempt.good:
            store.failed.pop(client, None)
            store.resting.pop(client, None)
        for client in attempt.failed:
            store.failed[client] = store.failed.get(client, 0) + 1
    until = round + schedule.rest_rounds
    found = []
    for client in sorted({client for attempt in attempts for client in attempt.failed}):
        failures = store.failed.get(client, 0)
        if failures >= schedule.rest_after:
            store.resting[client] = until
            found.append(Rested(round, client, failures, until))
    return found
