"""The formula of memory, held to the step itself as it is played without numbers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig

from flexlora.allocation.memory import Setting, training_memory, weight_bytes
from flexlora.allocation.shape import Footprint, ModelShape
from flexlora.models import widened
from flexlora.models.shape import shape_of
from flexlora.models.weights import outline
from flexlora.training.foreseen import buffers, built, footprint_of, play
from flexlora.training.tally import without_data


def llama() -> Any:
    return LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )


def gpt2() -> Any:
    return GPT2Config(vocab_size=300, n_embd=48, n_layer=4, n_head=4, n_positions=512)


CASES = [
    (llama, Setting(batch=2, length=48, dtype="float32"), 4),
    (llama, Setting(batch=4, length=48, dtype="float32", optimiser="sgd"), 64),
    (llama, Setting(batch=1, length=48, dtype="float32", cohort=3), 16),
    (llama, Setting(batch=2, length=300, dtype="bfloat16"), 8),
    (llama, Setting(batch=3, length=64, dtype="bfloat16", checkpointing=True), 16),
    (llama, Setting(batch=1, length=64, dtype="float32"), 8),
    (gpt2, Setting(batch=2, length=40, dtype="float32"), 8),
]


@cache
def foreseen(config: Any, dtype: str, length: int, checkpointing: bool, alone: bool) -> Footprint:
    return footprint_of(
        config(), "x", dtype=dtype, length=length, checkpointing=checkpointing, alone=alone
    )


@pytest.mark.parametrize(("config", "setting", "rank"), CASES)
def test_the_formula_is_the_step_that_is_played(config: Any, setting: Setting, rank: int) -> None:
    """Within 2 %, though it saw two and three blocks at rank 1 and few tokens alone."""
    made = config()
    shape = shape_of(outline(made, "x", None), "x")
    alone = setting.tokens == setting.length
    footprint = foreseen(config, setting.dtype, setting.length, setting.checkpointing, alone)
    ranks = {x.name: rank for x in shape.layers}
    with without_data():
        played = play(
            built(made, "x", setting.dtype, checkpointing=setting.checkpointing),
            ranks=rank,
            batch=setting.batch,
            length=setting.length,
            optimiser=setting.optimiser,
            cohort=setting.cohort,
            steps=2,
        )
    received = 4 * shape.trainable(ranks) * setting.cohort
    memory = training_memory(shape, footprint, ranks, setting)
    told = memory.training - buffers(setting.dtype)
    assert told == pytest.approx(played.highest + received, rel=0.02)


def test_what_is_foreseen_is_the_same_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that multiplies bfloat16 by way of float32 it is something else, where it is asked."""
    options: dict[str, Any] = {"dtype": "bfloat16", "length": 300, "alone": True}
    found = []
    for lacking in (False, True):
        monkeypatch.setattr(widened, "lacks_bfloat16", lambda lacking=lacking: lacking)
        found.append(footprint_of(llama(), "x", **options))
    assert found[0] == found[1]
    assert footprint_of(llama(), "x", **options, widened=True) != found[0]


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
