"""What training takes of a processor, from sizes alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from flexlora.allocation.devices import Device
from flexlora.allocation.memory import Setting, weight_bytes
from flexlora.allocation.shape import Footprint, ModelShape

EFFICIENCY = 0.6
"""Of the speed of matrix products, what a whole step reaches: measured on a CPU against its own
products (benchmarks/cost_model.py). Of a maker's peak, which no products reach, a step has less."""


MOVED = 4.0
"""Times that what a pass keeps goes through memory, there and back: measured alike."""


def base_operations(shape: ModelShape, setting: Setting) -> float:
    """Operations of the frozen model in one step, additions and multiplications both.

    Two for each number and token on the way there, and two on the way back, for its weights have
    no gradient.
    """
    tokens = setting.tokens
    dense = 2.0 * shape.linear * tokens
    attention = 2.0 * shape.attention * setting.length * tokens  # Causal: half of all pairs.
    head = 4.0 * shape.head * tokens * setting.learnt
    there = (dense + attention) * (2 if setting.checkpointing else 1)
    return there + dense + 2 * attention + head


def branch_operations(shape: ModelShape, ranks: Mapping[str, int], setting: Setting) -> float:
    """Of the adapters: two for each number and token there, four back.

    Little beside the base's: that is why a lower rank saves hardly any time.
    """
    passes = 2 + 4 + (2 if setting.checkpointing else 0)
    return float(passes * shape.trainable(ranks) * setting.tokens)


def step_seconds(
    shape: ModelShape,
    footprint: Footprint,
    ranks: Mapping[str, int],
    setting: Setting,
    device: Device,
) -> float:
    """Of one step: products at what the device reaches of its speed (branches are computed in
    float32), then what goes through memory: the weights once a pass, and what passes keep."""
    passes = 3 if setting.checkpointing else 2
    products = base_operations(shape, setting) / device.speed(setting.dtype)
    products += branch_operations(shape, ranks, setting) / device.speed("float32")
    moved = passes * weight_bytes(shape, setting.dtype, setting.quantise)
    kept = footprint.highest if setting.checkpointing else footprint.kept
    moved += MOVED * setting.tokens * kept
    return products / EFFICIENCY + moved / device.bandwidth
