"""Models that PEFT adapts, and what it computes with folders."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn

ATTENTION = ["q_proj", "v_proj"]
TOKENS = torch.arange(14).reshape(2, 7)
Update = dict[str, Tensor]


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def written(model: nn.Module, folder: Path, seed: int, **config: Any) -> Path:
    """A folder that PEFT wrote, of random factors."""
    torch.manual_seed(seed)
    known = peft.LoraConfig(**{"init_lora_weights": False} | config)
    adapted = peft.get_peft_model(copy.deepcopy(model), known)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder)
    return folder


def loaded(model: nn.Module, folder: Path) -> peft.PeftModel:
    """The model in float64 with the folder's adapter."""
    return peft.PeftModel.from_pretrained(copy.deepcopy(model).double(), folder).eval()


def change(model: nn.Module, folder: Path) -> Update:
    """By how much the adapter changes each parameter of the model, as PEFT merges it."""
    before = dict(copy.deepcopy(model).double().named_parameters())
    after = loaded(model, folder).merge_and_unload()
    return {name: x.detach() - before[name].detach() for name, x in after.named_parameters()}


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found = model(TOKENS)
    return found if isinstance(found, Tensor) else found.logits


def with_updates(model: nn.Module, by: Update) -> nn.Module:
    changed = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            parameter.add_(by[name])
    return changed
