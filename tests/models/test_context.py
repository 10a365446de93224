"""How many positions there are: as many as a sequence can have, and count for it alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    Phi3Config,
    RobertaConfig,
)

from flexlora.config.config import Config
from flexlora.errors import ConfigError
from flexlora.federation.data import require_context
from flexlora.models import AdaptedModel, BaseModel
from flexlora.models.context import context_of, positions_of, shorter
from small import small

SMALL = {"vocab_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32}
ENDLESS = SimpleNamespace(model_max_length=10**30)
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0, 1.2, 1.6, 2.5, 4.0, 6.0, 8.0, 8.0],
    "original_max_position_embeddings": 24,
}


def made(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def phi(**changes: Any) -> Any:
    return made(
        Phi3Config(
            **SMALL,
            intermediate_size=48,
            num_key_value_heads=2,
            pad_token_id=0,
            max_position_embeddings=96,
            **changes,
        )
    )


def roberta() -> Any:
    more: dict[str, Any] = {"is_decoder": True, "pad_token_id": 1, "type_vocab_size": 1}
    return made(RobertaConfig(**SMALL, intermediate_size=48, max_position_embeddings=34, **more))


def test_longrope_counts_as_long_as_its_first_frequencies_hold() -> None:
    model = phi(rope_parameters=LONGROPE, original_max_position_embeddings=24)
    assert context_of(model, ENDLESS) == 24
    assert "96 by its config" in shorter(model)
    for parameter in model.parameters():
        parameter.data.mul_(4)  # Attention tells places apart.
    # What it saves us from: a longer neighbour, and a short sequence has other logits.
    short, long = torch.arange(3, 13)[None], torch.arange(3, 33)[None]
    alone = model(short).logits
    padded = torch.cat([short, torch.zeros(1, 20, dtype=torch.long)], dim=1)
    beside = model(torch.cat([padded, long])).logits[:1, :10]
    assert not torch.allclose(alone, beside, atol=1e-3)
    within = model(torch.cat([padded[:, :24], long[:, :24]])).logits[:1, :10]
    assert torch.allclose(alone, within, atol=1e-5)


def test_other_models_have_what_their_config_says() -> None:
    wide: dict[str, Any] = {"intermediate_size": 48, "max_position_embeddings": 40}
    opt = {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 40}
    for model, most in (
        (phi(), 96),
        (made(LlamaConfig(**SMALL, **wide)), 40),
        (made(GPT2Config(vocab_size=64, n_layer=1, n_head=2, n_embd=32, n_positions=40)), 40),
        (made(OPTConfig(**SMALL, **opt)), 40),
    ):
        assert context_of(model, ENDLESS) == most
        assert shorter(model) == ""
        model(torch.full((1, most), 5))


def test_positions_that_begin_behind_padding_are_fewer() -> None:
    model = roberta()
    assert positions_of(model) == 32
    model(torch.full((1, 32), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, 33), 5))


def test_a_model_that_says_nothing_has_what_its_tokenizer_says() -> None:
    model = nn.Linear(2, 2)
    model.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())  # type: ignore[assignment]
    assert positions_of(model) == 0
    assert context_of(model, SimpleNamespace(model_max_length=77)) == 77
    assert context_of(model, ENDLESS) == 2048


def test_a_run_of_longer_examples_is_told_why() -> None:
    model = phi(rope_parameters=LONGROPE, original_max_position_embeddings=24)
    tokenizer = SimpleNamespace(pad_token_id=0)
    adapted = AdaptedModel(BaseModel(model, tokenizer, "phi", context_of(model, ENDLESS)))
    config: Config = small(data={"max_tokens": 90})
    with pytest.raises(ConfigError, match=r"of 24 tokens \(96 by its config, but with LongRoPE"):
        require_context(config, adapted)
