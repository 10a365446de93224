"""PEFT folders by hand, and what they compute, read by a route of its own."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reference import gaussian

PREFIX = "base_model.model."


def write_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    r: int,
    alpha: float | None = None,
    **config: Any,
) -> Path:
    """A folder as PEFT writes it; keys get their prefix here. alpha: None for r, a scale of 1."""
    folder.mkdir(parents=True)
    keyed = {PREFIX + key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(keyed, folder / "adapter_model.safetensors", {"format": "pt"})
    known = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": r, "lora_alpha": alpha or r}
    (folder / "adapter_config.json").write_text(json.dumps(known | config))
    return folder


def pair(
    layer: str, m: int, n: int, rank: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """The two tensors of a linear layer."""
    return {
        f"{layer}.lora_A.weight": gaussian(rank, n, seed=seed).to(dtype),
        f"{layer}.lora_B.weight": gaussian(m, rank, seed=seed + 1000).to(dtype),
    }


def edit(folder: Path, **changes: Any) -> Path:
    """Change the folder's config."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def add(folder: Path, **tensors: Tensor | None) -> Path:
    """Change the folder's tensors; None takes one away. Keys need their prefix."""
    path = folder / "adapter_model.safetensors"
    changed = load_file(path) | tensors
    save_file({key: tensor for key, tensor in changed.items() if tensor is not None}, path)
    return folder


def stored(folder: Path) -> dict[str, Tensor]:
    """The folder's tensors."""
    return load_file(folder / "adapter_model.safetensors")


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "adapter_config.json").read_text()))


def updates(folder: Path) -> dict[str, Tensor]:
    """Layer → its update as a float64 matrix, as PEFT computes it from these two files alone."""
    config, tensors = config_of(folder), stored(folder)
    found = {}
    for key, a in tensors.items():
        match = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_(embedding_)?A(\.weight)?", key)
        if match is None:
            continue
        layer = match[1]
        b = tensors[key.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")]
        alpha = config["lora_alpha"]
        for pattern, value in config.get("alpha_pattern", {}).items():
            if re.match(rf"(.*\.)?({pattern})$", layer):
                alpha = value
                break
        root = math.sqrt(a.shape[0]) if config.get("use_rslora") else a.shape[0]
        found[layer] = alpha / root * (b.double().flatten(1) @ a.double().flatten(1))
    return found


def weighted(folders: list[Path], weights: list[float]) -> dict[str, Tensor]:
    """Layer → Σ weight · update in float64; a layer that a folder lacks is zero there."""
    total: dict[str, Tensor] = {}
    for folder, weight in zip(folders, weights, strict=True):
        for layer, update in updates(folder).items():
            total[layer] = total.get(layer, torch.zeros_like(update)) + weight * update
    return total
