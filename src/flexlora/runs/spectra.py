"""What the learned update looks like after a round: its singular values, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexlora.formats.json_fields import items, number, table, whole
from flexlora.lowrank import effective_rank
from flexlora.rules import Rule, State
from flexlora.runs.run_directory import Run

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


@dataclass(frozen=True)
class Layer:
    """One layer's learned update: its largest singular values, descending; the rest is of all."""

    values: tuple[float, ...]
    effective_rank: float
    rank: int
    norm: float


@dataclass(frozen=True)
class Spectrum:
    """One line of spectra.jsonl."""

    round: int
    layers: Mapping[str, Layer]

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Spectrum:
        """Layers of a diverged round, whose numbers JSON cannot hold, are left out.

        Raises ValueError naming an entry that is missing or wrong.
        """
        layers = {}
        for name in (found := table(record, "layers")):
            layer = table(found, name)
            values = tuple(number({"values": x}, "values") for x in items(layer, "values"))
            of = Layer(
                values, number(layer, "effective_rank"), whole(layer, "rank"), number(layer, "norm")
            )
            if not any(map(math.isnan, (*values, of.effective_rank, of.norm))):
                layers[name] = of
        return Spectrum(whole(record, "round"), layers)


def read_spectra(run: Run) -> tuple[Spectrum, ...]:
    """Of the validated rounds, in order. Raises RunError for a damaged file."""
    with run.undamaged("spectra.jsonl"):
        return tuple(map(Spectrum.from_json, run.read_spectra()))
