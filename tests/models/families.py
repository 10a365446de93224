"""Every language model that transformers can build from a config, tiny and random."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

from flexlora.models import BaseModel, load_model
from flexlora.models.linear_like import linear_shape
from flexlora.models.targets import output_head

# Whatever a config calls its sizes.
_SIZES: dict[int, str] = {
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
    "num_decoder_layers num_encoder_layers num_key_value_heads num_experts_per_tok "
    "linear_num_key_heads eos_token_id",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads "
    "decoder_attention_heads num_experts num_local_experts n_routed_experts mamba_n_heads "
    "mamba_num_heads time_step_rank linear_num_value_heads rotary_dim",
    8: "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim mamba_d_state ssm_state_size "
    "state_size linear_key_head_dim linear_value_head_dim block_size",
    16: "moe_intermediate_size shared_expert_intermediate_size q_lora_rank kv_lora_rank "
    "qk_head_dim sliding_window mamba_d_head mamba_head_dim attention_window",
    32: "hidden_size d_model n_embd dim embedding_size emb_dim embed_dim lru_width projection_dim "
    "word_embed_proj_dim",
    48: "intermediate_size ffn_dim d_ff d_inner n_inner encoder_ffn_dim decoder_ffn_dim",
    256: "max_position_embeddings n_positions max_seq_len n_ctx context_length",
    1024: "vocab_size",
    1: "bos_token_id decoder_start_token_id n_shared_experts num_random_blocks",
    0: "pad_token_id num_nextn_predict_layers",
}
_SMALL = {name: size for size, names in _SIZES.items() for name in names.split()}
_GROUPED = {"num_key_value_heads": 4}  # Attention that wants a key for each head.
_LAYERS = {"layer_types", "layers_block_type", "num_hidden_layers"}
_STATE = ["linear_attention", "full_attention"]
_OWN: dict[str, dict[str, Any]] = {
    "axk1": {**_GROUPED, "n_group": 1, "topk_group": 1},
    "axk2": _GROUPED,
    "bailing_hybrid": {**_GROUPED, "layer_types": _STATE},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": _STATE},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "data2vec-text": {"pad_token_id": 1},
    "deepseek_v2": _GROUPED,
    "deepseek_v3": _GROUPED,
    "deepseek_v32": _GROUPED,
    "dots3_note": _GROUPED,
    "dots3_note_text": _GROUPED,
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma4_text": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 1024},
    "glm4_moe_lite": _GROUPED,
    "glm_moe_dsa": _GROUPED,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "kimi_linear": _GROUPED,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": _GROUPED,
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 2},
    "minicpm3": _GROUPED,
    "nemotron_h": {"n_groups": 2},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"], "num_buckets": 4},
    "youtu": _GROUPED,
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "mamba"],
    },
    "zaya": {"num_experts_per_tok": 1},
}
_SECTIONS = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
}
_OF_PARTS: dict[str, dict[str, Any]] = {
    "qwen2_vl_text": _SECTIONS,
    "qwen2_5_vl_text": _SECTIONS,
    "qwen2_5_omni_text": _SECTIONS,
    "paddleocr_vl_text": _SECTIONS,
}
_MOST = 7_000_000  # Parameters; what cannot be made smaller by its config is not built.


@cache
def _kinds(auto: Any) -> dict[str, type[Any]]:
    found: dict[str, type[Any]] = {}
    for kind in auto._model_mapping:
        found.setdefault(kind.model_type, kind)
    return found


def names() -> list[str]:
    """transformers' model types with a class for causal language models, in alphabetic order."""
    return sorted(_kinds(AutoModelForCausalLM))


def multimodal_names() -> list[str]:
    """Those with a class for language models that also see or hear, in alphabetic order."""
    return sorted(_kinds(AutoModelForMultimodalLM))


def tiny(name: str) -> BaseModel | None:
    """A random one with the embedded tokenizer; None if transformers cannot build it so small.

    Of each kind of layer that its default config names there is one.
    """
    model = _built(name, AutoModelForCausalLM)
    if model is None:
        return None
    return BaseModel(model, load_model("tiny").tokenizer, name, 64)


def tiny_multimodal(name: str) -> Any | None:
    """A random one, with its towers; None as for `tiny`."""
    return _built(name, AutoModelForMultimodalLM)


def _built(name: str, auto: Any) -> Any | None:
    for config in _configs(_kinds(auto)[name]):
        try:
            with torch.device("meta"):
                outline = auto.from_config(config)
            if sum(p.numel() for p in outline.parameters()) > _MOST:
                continue
            torch.manual_seed(0)
            return auto.from_config(config).eval().requires_grad_(False)
        except Exception:  # its config cannot be made small in this way
            continue
    return None


def linear_names(model: nn.Module) -> tuple[str, ...]:
    """The last names of its linear modules but the output head: what a user may name in targets."""
    head = output_head(model)
    found = (n for n, x in model.named_modules() if linear_shape(x) and x is not head)
    return tuple(sorted({name.rpartition(".")[2] for name in found} - {"lm_head"}))


def _configs(kind: type[Any]) -> Iterator[Any]:
    for kinds in (True, False):
        try:
            config = _shrunk(kind, _OWN.get(kind.model_type, {}), kinds=kinds)
        except Exception:  # the next one may do
            continue
        if hasattr(config, "is_decoder"):
            config.is_decoder = True
        yield config


def _shrunk(kind: type[Any], own: dict[str, Any], *, kinds: bool) -> Any:
    default = kind()
    aliases = getattr(kind, "attribute_map", {})
    known = {*default.to_dict(), *aliases}
    options: dict[str, Any] = {key: size for key, size in _SMALL.items() if key in known}
    for alias, meant in aliases.items():
        if alias in options and meant in options:
            options.pop(alias)
    for key in ("layer_types", "layers_block_type") if kinds else ():
        one_each = list(dict.fromkeys(getattr(default, key, None) or ()))
        if len(one_each) > 1 and not _LAYERS & own.keys():
            options |= {key: one_each, "num_hidden_layers": len(one_each)}
            break
    options |= own
    for part in getattr(kind, "sub_configs", None) or {}:
        inner: Any = getattr(default, part, None)
        if hasattr(inner, "to_dict"):
            own_part = _OF_PARTS.get(inner.model_type, {})
            options[part] = _shrunk(type(inner), own_part, kinds=kinds).to_dict()
    return kind(**options)
