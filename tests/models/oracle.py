"""Tiny random models of three families, and PEFT's LoRA as the oracle."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from flexlora.adapters import Adapter, Factors, LayerSpec, lora_scale
from flexlora.models import BaseModel

FAMILIES = ("llama", "gpt2", "neox")
VOCABULARY = 61


def random_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> BaseModel:
    """A frozen two-layer model with random weights and a stand-in tokenizer."""
    torch.manual_seed(seed)
    if family == "llama":
        config = transformers.LlamaConfig(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCABULARY,
            max_position_embeddings=64,
        )
    elif family == "gpt2":
        config = transformers.GPT2Config(
            n_embd=24,
            n_layer=2,
            n_head=4,
            vocab_size=VOCABULARY,
            n_positions=64,
            bos_token_id=1,
            eos_token_id=2,
        )
    else:
        config = transformers.GPTNeoXConfig(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=VOCABULARY,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=2,
        )
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
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


def encoded(count: int, *, seed: int = 0, longest: int = 12) -> list[SimpleNamespace]:
    """Examples of random tokens, of mixed lengths."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())

    return [
        SimpleNamespace(
            id=f"e{i}",
            prompt=tokens(2, longest),
            response=(*tokens(1, 5), 2),
            references=("x",),
            truncated=False,
        )
        for i in range(count)
    ]


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
