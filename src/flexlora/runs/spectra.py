"""What the learned update looks like after a round: its singular values, layer by layer."""

from __future__ import annotations

from typing import Any

from flexlora.lowrank import effective_rank
from flexlora.rules import Rule, State

KEPT_VALUES = 32


def spectra_record(rule: Rule, state: State) -> dict[str, Any]:
    """{round, layers: {name: {values, effective_rank, rank, norm}}} of all that was learned.

    values: the largest 32 singular values, descending, to 5 digits; rank, effective rank and the
    Frobenius norm are of all of them.
    """
    layers = {}
    for name, values in rule.singular_values(state).items():
        kept = [float(f"{value:.5g}") for value in values[:KEPT_VALUES].tolist()]
        layers[name] = {
            "values": kept,
            "effective_rank": round(effective_rank(values), 4),
            "rank": values.shape[0],
            "norm": float(f"{float(values.double().norm()):.6g}"),
        }
    return {"round": state.round, "layers": layers}
