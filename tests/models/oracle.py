"""Tiny random models, PEFT's LoRA as the oracle, and transformers' own loss as the slow twin."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from flexlora.adapters import Adapter, Factors, LayerSpec, lora_scale
from flexlora.models import BaseModel
from flexlora.tasks.prompts import Encoded

FAMILIES = ("llama", "gpt2", "neox")
VOCABULARY = 61

_SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, _GROUPED),
    "gpt2": (
        transformers.GPT2Config,
        {
            "n_embd": 24,
            "n_layer": 2,
            "n_head": 4,
            "vocab_size": VOCABULARY,
            "n_positions": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "neox": (transformers.GPTNeoXConfig, _SIZES),
    "mistral": (transformers.MistralConfig, {**_GROUPED, "sliding_window": 3}),
    "gemma2": (
        transformers.Gemma2Config,
        {**_GROUPED, "head_dim": 8, "sliding_window": 3, "final_logit_softcapping": 0.5},
    ),
    "gemma3": (
        transformers.Gemma3TextConfig,
        {
            **_GROUPED,
            "head_dim": 8,
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "opt": (
        transformers.OPTConfig,
        {**_SIZES, "ffn_dim": 40, "word_embed_proj_dim": 24, "pad_token_id": 0},
    ),
    "bloom": (
        transformers.BloomConfig,
        {"hidden_size": 24, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY},
    ),
}


def random_model(
    family: str,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    *,
    attention: str | None = None,
    **changes: Any,
) -> BaseModel:
    """A frozen two-layer model with random weights and a stand-in tokenizer.

    attention: transformers' name of one; changes: to the family's config.
    """
    torch.manual_seed(seed)
    kind, options = _CONFIGS[family]
    model = transformers.AutoModelForCausalLM.from_config(
        kind(**{**options, **changes}), attn_implementation=attention
    ).to(dtype)
    for parameter in model.parameters():  # Larger weights: no gradient is near rounding.
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.15)
    model.eval().requires_grad_(False)
    return BaseModel(model, SimpleNamespace(pad_token_id=0), family, 64)


def random_adapter(
    layers: tuple[LayerSpec, ...],
    rank: int,
    *,
    seed: int = 0,
    scale: float = 1.5,
    dtype: torch.dtype = torch.float32,
    base: str = "",
) -> Adapter:
    """Both sides random: every gradient differs from zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return Adapter({x.name: Factors(draw(x.m, rank), draw(rank, x.n), scale) for x in layers}, base)


def encoded(count: int, *, seed: int = 0, longest: int = 12, alike: int = 0) -> list[Encoded]:
    """Examples of random tokens, of mixed lengths. alike: tokens that all prompts begin with."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())

    begin = tokens(alike, alike) if alike else ()
    return [
        Encoded(
            id=f"e{i}",
            category="",
            prompt=(*begin, *tokens(2, longest)),
            response=(*tokens(1, 5), 2),
            references=("x",),
        )
        for i in range(count)
    ]


def padded(
    examples: Sequence[Any], pad: int = 0, *, loss_on: str = "response"
) -> dict[str, torch.Tensor]:
    """One batch as transformers wants it: padded on the right, masked, labels -100 elsewhere."""
    width = max(len(x.prompt) + len(x.response) for x in examples)
    ids = torch.full((len(examples), width), pad)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, x in enumerate(examples):
        tokens = torch.tensor((*x.prompt, *x.response))
        first = len(x.prompt) if loss_on == "response" else 0
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        labels[row, first : len(tokens)] = tokens[first:]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def plain_loss(model: Any, examples: Sequence[Any], *, loss_on: str = "response") -> torch.Tensor:
    """transformers' own loss, over all logits and with the padding masked."""
    loss: torch.Tensor = model(**padded(examples, loss_on=loss_on)).loss
    return loss


def apart(one: Adapter, two: Adapter) -> float:
    """The largest distance of two layers' products, in Frobenius norm relative to the second's."""
    assert one.ranks == two.ranks
    found = [0.0]
    for name in two:
        wanted = two[name].product().dense().double()
        off = float((one[name].product().dense().double() - wanted).norm())
        found.append(off / max(float(wanted.norm()), 1e-30))
    return max(found)


class Peft:
    """A PEFT model that starts from the same adapter."""

    def __init__(self, base: BaseModel, adapter: Adapter, alpha: float, rslora: bool) -> None:
        rank = next(iter(adapter.values())).rank
        names = sorted({name.rpartition(".")[2] for name in adapter})
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            use_rslora=rslora,
            target_modules=names,
            fan_in_fan_out=base.name == "gpt2",
            task_type="CAUSAL_LM",
        )
        assert all(
            f.scale == lora_scale(alpha, rank, "rslora" if rslora else "lora")
            for f in adapter.values()
        )
        self.model = get_peft_model(copy.deepcopy(base.model), config, autocast_adapter_dtype=False)
        self.model.eval()  # The dropout of the base (GPT-2) is off in both.
        modules = dict(self.model.get_base_model().named_modules())
        self.factors: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        for name, factors in adapter.items():
            a, b = modules[name].lora_A["default"].weight, modules[name].lora_B["default"].weight
            a.data, b.data = factors.a.clone(), factors.b.clone()
            self.factors[name] = (b, a)
