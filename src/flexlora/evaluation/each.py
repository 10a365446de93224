"""Scores of many clients at once, each with an adapter of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flexlora.adapters import Adapter, Factors
from flexlora.evaluation.aggregate import Scores
from flexlora.evaluation.evaluate import EvalClient, EvalSettings, evaluate
from flexlora.lowrank import LowRank
from flexlora.models import AdaptedModel


def evaluate_each(
    model: AdaptedModel,
    clients: Sequence[EvalClient],
    updates: Sequence[Mapping[str, LowRank]],
    settings: EvalSettings,
) -> Scores:
    """Score client k on W₀ + Δ + updates[k], all clients in shared forward passes.

    Δ is what the model stands on, before and after. Every client scores as `evaluate` would score
    it alone with its update in Δ, beyond rounding, whoever is beside it. Afterwards the model
    carries nothing. Raises DataError as `evaluate` does, AdapterError for an update that does not
    name exactly the adapted layers, and ValueError unless there is one update a client.
    """
    if len(updates) != len(clients):
        raise ValueError(
            f"updates are {len(updates)} for {len(clients)} clients; give one for each client"
        )
    adapters = [
        Adapter({name: Factors(part.left, part.right, 1.0) for name, part in update.items()})
        for update in updates
    ]
    try:
        carried = model.start(adapters)
        carried.freeze()
        return evaluate(model, clients, settings, carried=carried)
    finally:
        model.stop()
