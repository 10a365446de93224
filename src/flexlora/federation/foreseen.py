"""What clients of a run will take of a device's memory, by the planner's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flexlora.allocation.memory import Memory
from flexlora.errors import ModelError
from flexlora.federation.setup import Setup
from flexlora.rules import Rule

Peaks = Mapping[str, Memory]
"""Client type → bytes at the peak of training one of its clients, on the largest batch that any of
them can have. Empty for a model whose passes cannot be played without numbers."""


def peaks(setup: Setup, rule: Rule) -> Peaks:
    """Of every type that clients have."""
    foresight, found = setup.foresight, {}
    for kind, held in setup.roster.ranks.items():
        clients = [client for client, its in setup.roster.types.items() if its == kind]
        ranks = rule.ranks_for(setup.spec, held)
        try:
            found[kind] = foresight.memory(ranks, foresight.heaviest(rule, clients))
        except ModelError:
            return {}
    return found


def cohort_peak(setup: Setup, rule: Rule, clients: int) -> float | None:
    """Bytes on top of the model while so many train in one pass, each at the highest rank and on
    the largest batch that any of them has; None where it cannot be foreseen."""
    spec, foresight = setup.spec, setup.foresight
    setting = replace(foresight.heaviest(rule, setup.examples.train), cohort=clients)
    ranks = spec.highest if rule.traits.mixed_ranks else spec.lowest
    try:
        return foresight.memory(ranks, setting).training
    except ModelError:
        return None
