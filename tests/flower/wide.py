"""A base model of any width, of which nothing is learned: the tokens are those of the tiny one."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import flexlora

_TINY = Path(flexlora.__file__).parent / "models" / "tiny"


def wide_model(folder: Path, *, hidden: int, wide: int, layers: int) -> Path:
    """A folder with a Llama of random weights."""
    shutil.copytree(_TINY, folder)
    config = AutoConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size = hidden, wide
    config.num_hidden_layers, config.head_dim = layers, hidden // config.num_attention_heads
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
