"""Operations and seconds of a step: counted by torch itself, and what moves them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

from flexlora.allocation.devices import Device
from flexlora.allocation.memory import Setting
from flexlora.allocation.shape import Footprint
from flexlora.allocation.work import (
    CALL,
    base_operations,
    branch_operations,
    score_bytes,
    step_seconds,
)
from flexlora.models.shape import shape_of
from flexlora.models.weights import outline

CONFIG = LlamaConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=88,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
)
SETTING = Setting(batch=2, length=24, dtype="float32")
SHAPE = shape_of(outline(CONFIG, "x", None), "x")


def test_operations_of_the_base_are_those_that_torch_counts() -> None:
    """Forward and backward to the inputs. Where scores are kept, attention is four products on the
    way back, where they are made anew five."""
    from transformers import AutoModelForCausalLM

    config = deepcopy(CONFIG)  # It keeps what attends.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.requires_grad_(False)
    inputs = torch.rand(2, 24, 32, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=inputs).logits.sum().backward()
    anew = 2 * SHAPE.attention * SETTING.length * SETTING.tokens
    assert base_operations(SHAPE, SETTING) - anew == pytest.approx(
        counter.get_total_flops(), rel=0.02
    )
    twice = base_operations(SHAPE, SETTING, attended=2.0) - base_operations(SHAPE, SETTING)
    assert twice == 2 * anew


def test_attention_over_long_examples_leaves_out_most_of_what_is_to_come() -> None:
    long = replace(SETTING, length=2048)
    full = 7 * 2 * SHAPE.attention * 2048 * long.tokens
    dense = 4.0 * (SHAPE.linear + SHAPE.head) * long.tokens
    assert base_operations(SHAPE, long) - dense == pytest.approx(full * (2048 + 512) / 2 / 2048)


def test_scores_are_one_a_pair_of_tokens_and_head() -> None:
    pairs = SHAPE.heads * SETTING.batch * SETTING.length**2
    assert SHAPE.heads == 3 * 4
    assert score_bytes(SHAPE, SETTING) == 4 * 14 * pairs
    assert score_bytes(SHAPE, SETTING, attended=2.0) == 4 * 18 * pairs


def test_ranks_add_in_proportion_and_little() -> None:
    one, eight = (
        branch_operations(SHAPE, {x.name: rank for x in SHAPE.layers}, SETTING) for rank in (1, 8)
    )
    assert eight == 8 * one
    assert one < 0.2 * base_operations(SHAPE, SETTING)


def test_seconds_follow_what_the_device_can() -> None:
    ranks = {x.name: 4 for x in SHAPE.layers}
    footprint = Footprint(1e4, 0.0, 1e4, 0.0, moved=1e5, moved_fixed=0.0, calls=0.0)
    device = Device(1e9, {"float32": 1e9, "bfloat16": 1e10}, 1e12, 1.0, 1.0)

    def seconds(setting: Setting = SETTING, device: Device = device) -> float:
        return step_seconds(SHAPE, footprint, ranks, setting, device)

    assert seconds(replace(SETTING, batch=4)) == pytest.approx(2 * seconds(), rel=0.01)
    assert seconds(replace(SETTING, dtype="bfloat16")) < seconds()
    assert seconds(replace(SETTING, checkpointing=True)) > seconds()
    assert seconds(device=replace(device, bandwidth=1e6)) > 10 * seconds()
    more = replace(footprint, calls_fixed=1000.0)
    assert step_seconds(SHAPE, more, ranks, SETTING, device) == pytest.approx(
        seconds() + 1000 * CALL
    )
