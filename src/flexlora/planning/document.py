"""A plan as one JSON object: bytes, seconds, bits, shares."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flexlora.adapters import ranks_in_words
from flexlora.planning.allotment import Cost
from flexlora.planning.plan import ClassPlan, Plan


def to_json(plan: Plan) -> dict[str, Any]:
    shape = plan.model.shape
    return {
        "model": {
            "name": plan.model.name,
            "parameters": shape.parameters,
            "layers": len(shape.layers),
        },
        "rule": plan.rule.name,
        "asked": asdict(plan.asked),
        "classes": [_class(x, shape.parameters) for x in plan.classes],
        "federation": {
            **asdict(plan.federation),
            "total_bytes": plan.federation.total_bytes,
        },
    }


def _class(x: ClassPlan, parameters: int) -> dict[str, Any]:
    return {
        "name": x.kind.name,
        "clients": x.kind.clients,
        "availability": x.kind.device.availability,
        "memory": x.kind.device.memory,
        "sources": dict(x.kind.device.sources),
        "seconds_of_loading": x.loading,
        "steps": x.steps,
        "fits": x.cost is not None,
        "remedy": None if x.remedy is None else x.remedy.words,
        "cost": None if x.cost is None else _cost(x.cost, parameters),
        "at_rank_1": _cost(x.least, parameters),
        "capacity_bits": x.capacity,
        "data_bits_at_most": x.data_bits,
        "rank_that_holds_all": x.enough,
    }


def _cost(cost: Cost, parameters: int) -> dict[str, Any]:
    return {
        "ranks": dict(cost.ranks),
        "rank": ranks_in_words(cost.ranks),
        "trainable": cost.parameters,
        "trainable_share": cost.parameters / parameters,
        "memory": {**asdict(cost.memory), "peak": cost.memory.peak},
        "seconds": cost.seconds,
        "seconds_of_compute": cost.compute,
        "bytes_down": cost.traffic.down,
        "bytes_delta": cost.traffic.delta,
        "bytes_up": cost.traffic.up,
    }
