"""Weights of several modules: Δ of one of them is nothing to the others."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, Zamba2Config

from flexlora.adapters import Adapter
from flexlora.models import AdaptedModel, BaseModel
from flexlora.models.tied import tied_modules
from models.oracle import random_adapter, random_model
from models.test_adapted import batch

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4, "n_mamba_heads": 4, "mamba_ngroups": 1}


def hybrid(dtype: torch.dtype) -> BaseModel:
    """Two of its blocks are one, by their weights."""
    torch.manual_seed(0)
    config = Zamba2Config(
        **SMALL,
        **HEADS,
        num_hidden_layers=4,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
        num_mem_blocks=1,
        mamba_d_state=8,
        mamba_headdim=16,
        chunk_size=8,
        adapter_rank=4,
    )
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval().requires_grad_(False)
    return BaseModel(model, SimpleNamespace(pad_token_id=0, eos_token_id=1), "hybrid", 64)


def test_who_has_a_weight_is_told_by_name() -> None:
    base = random_model("llama").model
    assert tied_modules(base) == {}
    names = [f"model.layers.0.self_attn.{x}_proj" for x in "qkv"]
    first, second, third = map(base.get_submodule, names)
    first.weight = second.weight = third.weight
    found = tied_modules(base)
    assert {name: set(others) for name, others in found.items()} == {
        name: set(names) - {name} for name in names
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [2, 40])
def test_what_is_scored_is_what_was_trained_and_goes_away_bit_for_bit(
    dtype: torch.dtype, rank: int
) -> None:
    """rank: of a Δ that is held by its factors, or as a matrix."""
    model = AdaptedModel(hybrid(dtype), ["attention"])
    assert sum(x.tied for x in model.wrapped.values()) == len(model.layers) == 8
    ids = batch()["input_ids"] % 60
    plain = model(input_ids=ids, use_cache=False).logits
    adapter: Adapter = random_adapter(model.layers, rank, scale=1.0)
    model.start([adapter])
    trained = model(input_ids=ids, use_cache=False).logits.detach()
    model.stop()
    for _ in range(2):
        model.set_delta({name: x.product() for name, x in adapter.items()})
        scored = model(input_ids=ids, use_cache=False).logits
        model.set_delta({})
    moved = float((trained - plain).norm())
    assert moved > 0
    assert float((scored - trained).norm()) < 0.01 * moved
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, plain)
