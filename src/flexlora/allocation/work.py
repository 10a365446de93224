"""What training takes of a processor, from sizes alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from flexlora.allocation.devices import Device
from flexlora.allocation.memory import Setting, weight_bytes
from flexlora.allocation.shape import ModelShape

EFFICIENCY = 0.6
"""Of the speed of matrix products, what a whole step reaches: measured on a CPU against its own
products (benchmarks/cost_model.py). Of a maker's peak, which no products reach, a step has less."""


def step_operations(shape: ModelShape, ranks: Mapping[str, int], setting: Setting) -> float:
    """Operations of one step, additions and multiplications both.

    The frozen base takes two for each number and token on the way there, and two on the way back:
    its weights have no gradient. A branch takes two and four. What ranks add is little: that is why
    a lower rank saves hardly any time.
    """
    tokens = setting.tokens
    learnt = tokens * setting.learnt
    base = 2.0 * shape.linear * tokens
    attention = 2.0 * shape.attention * setting.length * tokens  # Causal: half of all pairs.
    head = 2.0 * shape.head * learnt
    branch = 2.0 * shape.trainable(ranks) * tokens
    there = base + attention + branch
    back = base + 2 * attention + 2 * branch
    return there * (2 if setting.checkpointing else 1) + back + 2 * head


def step_seconds(
    shape: ModelShape, ranks: Mapping[str, int], setting: Setting, device: Device
) -> float:
    """Of one step: the operations at what the device reaches of its speed, or reading the weights
    once for each pass where that takes longer."""
    passes = 3 if setting.checkpointing else 2
    read = passes * weight_bytes(shape, setting.dtype, setting.quantise) / device.bandwidth
    computed = step_operations(shape, ranks, setting) / (EFFICIENCY * device.speed(setting.dtype))
    return max(read, computed)
