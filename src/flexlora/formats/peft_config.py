"""What a PEFT LoRA folder says of itself: `adapter_config.json`, and our notes beside it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexlora.adapters import Scaling
from flexlora.errors import AdapterError

CONFIG, WEIGHTS, EXTRA = "adapter_config.json", "adapter_model.safetensors", "flexlora.json"
LARGEST_CONFIG_BYTES = 1 << 24
Config = dict[str, Any]

# Options of a PEFT LoRA config that make it compute something else than base + scale · B A.
_FOREIGN = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA biases",
    "use_qalora": "QALoRA",
    "layer_replication": "replicated layers",
    "target_parameters": "LoRA on bare parameters",
    "trainable_token_indices": "trained tokens",
    "alora_invocation_tokens": "activated LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


def read_config(path: Path) -> Config:
    """The folder's config. Raises AdapterError where its update is not scale · B A."""
    if not path.is_dir():
        raise AdapterError(f"{path} is not a folder; give a PEFT adapter folder")
    try:
        if (path / CONFIG).stat().st_size > LARGEST_CONFIG_BYTES:
            raise AdapterError(
                f"{path / CONFIG} has more than {LARGEST_CONFIG_BYTES >> 20} MB; save it again"
            )
        config = json.loads((path / CONFIG).read_bytes())
    except FileNotFoundError as error:
        raise AdapterError(
            f"{path} has no {CONFIG}; give a folder that save_pretrained wrote"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(
            f"{path / CONFIG} is not readable JSON; save the adapter again"
        ) from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path / CONFIG} is not a JSON table; save the adapter again")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{path} is a PEFT adapter of type {kind}; only LORA can be read")
    for key, words in _FOREIGN.items():
        if config.get(key):
            raise unsupported(path, f"{words} ({key})")
    if config.get("bias", "none") != "none":
        raise unsupported(path, f"trained biases (bias = {config['bias']!r})")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(_BASE_CHANGING):
        raise AdapterError(
            f"{path} was initialised by {init}, which changes the base model; convert it to plain "
            "LoRA with save_pretrained(path_initial_model_for_weight_conversion=…)"
        )
    return config


def scaling_of(config: Mapping[str, Any]) -> Scaling:
    return "rslora" if config.get("use_rslora") else "lora"


def matched(path: Path, key: str, name: str, config: dict[str, Any]) -> float:
    """r or lora_alpha of one layer: the first pattern that matches, as PEFT matches, decides."""
    patterns = config.get("rank_pattern" if key == "r" else "alpha_pattern") or {}
    value = config.get(key, 8)
    try:
        for pattern, number in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", name):
                value = number
                break
    except (re.error, AttributeError) as error:
        raise AdapterError(
            f"{path / CONFIG} has a pattern for {key} that cannot be read; correct it"
        ) from error
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not math.isfinite(value) or (key == "r" and value < 1):
        raise AdapterError(
            f"{path / CONFIG} has {key} {value!r} for layer {name}; give a number above 0"
        )
    return float(value)


def read_extra(path: Path) -> Config:
    """What `save_peft` noted beside PEFT's own files; nothing for other folders."""
    try:
        extra = json.loads((path / EXTRA).read_bytes())
        return {
            "empty": list(extra["empty"]),
            "scales": dict(extra["scales"]),
            "base_fingerprint": str(extra.get("base_fingerprint", "")),
        }
    except FileNotFoundError:
        return {"empty": [], "scales": {}, "base_fingerprint": ""}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdapterError(
            f"{path / EXTRA} is damaged; remove it, or save the adapter again"
        ) from error


def unsupported(path: Path, what: str) -> AdapterError:
    return AdapterError(
        f"{path} holds {what}, which is no plain LoRA pair; train or save it as plain LoRA"
    )
