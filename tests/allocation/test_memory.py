"""The formula of memory: what it says of sizes alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flexlora.allocation.memory import Setting, training_memory, weight_bytes
from flexlora.allocation.shape import Footprint, ModelShape

SHAPE = ModelShape(
    name="x",
    layers=(),
    parameters=1_000_000,
    linear=800_000,
    head=100_000,
    largest=50_000,
    vocabulary=1000,
    blocks=4,
    attention=256,
    heads=4,
)


def test_bytes_of_the_base() -> None:
    assert weight_bytes(SHAPE, "float32") == 4e6
    assert weight_bytes(SHAPE, "bfloat16") == 2e6
    packed = weight_bytes(SHAPE, "bfloat16", "4bit")
    assert packed == pytest.approx(800_000 * 0.516 + 400_000, rel=0.001)
    assert packed < weight_bytes(SHAPE, "bfloat16", "8bit") < weight_bytes(SHAPE, "bfloat16")


def test_a_model_that_changes_its_logits_holds_those_of_all_learnt_places() -> None:
    footprint = Footprint(0.0, 0.0, 0.0, 0.0)
    setting = Setting(batch=64, length=1024, dtype="float32")
    parts, whole = (
        training_memory(replace(SHAPE, whole_logits=x), footprint, {}, setting).peak
        for x in (False, True)
    )
    assert whole - 4e6 == 64 * 1024 * 1000 * 12
    assert parts - 4e6 == pytest.approx((1 << 24) * 12, rel=0.001)
