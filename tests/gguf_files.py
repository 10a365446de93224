"""GGUF files made with the package gguf, as llama.cpp's converter lays them out; no network.

Whoever imports this is skipped where the extra is not installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import flexlora.models

gguf, _ = (
    pytest.importorskip(package, reason=f"{package} of the extra gguf is not installed")
    for package in ("gguf", "accelerate")
)

TINY = Path(flexlora.models.__file__).parent / "tiny"
HEADS, GROUPS = 4, 2
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def llama(*, tied: bool = True, **changes: Any) -> Any:
    """A model of two layers whose rows are whole blocks; the embedded model's vocabulary."""
    config = LlamaConfig(
        **{
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": HEADS,
            "num_key_value_heads": GROUPS,
            "vocab_size": 1024,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": tied,
            "initializer_range": 0.2,
            **changes,
        }
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def write_llama(
    path: Path,
    model: Any,
    quant: str = "Q8_0",
    *,
    values: Mapping[str, str | int] | None = None,
    extra: Mapping[str, Tensor] | None = None,
    architecture: str = "llama",
    tokenizer: bool = True,
) -> dict[str, Tensor]:
    """Write the model in blocks of this kind, vectors in float32, with the embedded tokenizer.

    values, extra: further ones, and tensors, as they are. Returns what the file's numbers stand
    for, by the model's own names: gguf's `dequantize` of the rows as the model has them.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if tokenizer:
        _add_tokenizer(writer)
    for key, value in (values or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    kind = gguf.GGMLQuantizationType[quant]
    held = {}
    for name, parameter in model.named_parameters():
        rows = parameter.detach().numpy()
        stored = gguf.GGMLQuantizationType.F32 if rows.ndim == 1 else kind
        blocks = _blocks(rows, stored)
        held[name] = torch.from_numpy(gguf.dequantize(blocks, stored).copy())
        for part, heads in ((".q_proj.", HEADS), (".k_proj.", GROUPS)):
            if part in name:  # As llama.cpp wants the two halves of a rotary pair: side by side.
                shape = (heads, 2, blocks.shape[0] // heads // 2, blocks.shape[1])
                blocks = blocks.reshape(shape).swapaxes(1, 2).reshape(blocks.shape)
        writer.add_tensor(_name(name), blocks, raw_dtype=stored)
    for name, tensor in (extra or {}).items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def _blocks(rows: Any, kind: Any) -> Any:
    """The rows in blocks of this kind; of a kind that gguf only reads, blocks of any bytes."""
    try:
        return gguf.quantize(rows, kind)
    except NotImplementedError:
        shape = gguf.quant_shape_to_byte_shape(rows.shape, kind)
        draw = np.random.default_rng(rows.size)
        return draw.integers(0, 0x38, shape, np.uint8)  # Scales in float16 are below a half then.


def _name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{_NAMES[rest]}.weight"
    return f"{_NAMES[stem]}.weight"


def _add_tokenizer(writer: Any) -> None:
    held = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = held["model"]["vocab"]
    special = {entry["content"] for entry in held["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in special else normal for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in held["model"]["merges"]])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
