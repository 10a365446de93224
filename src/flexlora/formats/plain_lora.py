"""Whether a LoRA config describes plain LoRA, scale · B A on the base model as it was published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexlora.errors import AdapterError, shown

# Options of a PEFT LoRA config that make it compute something else than base + scale · B A.
_FOREIGN = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA biases",
    "use_qalora": "QALoRA",
    "layer_replication": "replicated layers",
    "trainable_token_indices": "trained tokens",
    "alora_invocation_tokens": "activated LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
# Initialisations that take from the base what the adapter begins with, so that it tells what. Then
# one that puts another in place of the base, of which the adapter tells nothing.
_BASE_CHANGING = ("pissa", "olora", "corda", "lora_ga")
_BASE_REPLACING = "loftq"


def require_plain(path: Path, config: Mapping[str, Any], *, as_published: bool = True) -> None:
    """Raise AdapterError where a LoRA config's update is not scale · B A, naming what it is.

    as_published: of the base as it was published, or else of what the initialisation left of it.
    """
    for key, words in _FOREIGN.items():
        if config.get(key):
            raise unsupported(path, f"{words} ({key})")
    if config.get("bias", "none") != "none":
        raise unsupported(path, f"trained biases (bias = {shown(config['bias'])})")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_BASE_REPLACING):
        raise AdapterError(
            f"{path} was initialised by {shown(init)}, which puts a quantised model in place of "
            "the base: no adapter is its update to the base as published; save that model, and "
            "the adapter with init_lora_weights = true as one for it"
        )
    if as_published and changed_base(config) is not None:
        raise AdapterError(
            f"{path} was initialised by {shown(init)}, which changes the base model; merge it with "
            f"the PEFT folder that its training began from: flexlora merge --initial {path}=START"
        )


def changed_base(config: Mapping[str, Any]) -> str | None:
    """The initialisation that took from the base what the adapter began with; None for others."""
    init = config.get("init_lora_weights")
    return init if isinstance(init, str) and init.lower().startswith(_BASE_CHANGING) else None


def unsupported(path: Path, what: str) -> AdapterError:
    return AdapterError(
        f"{path} holds {what}, which is no plain LoRA pair; train or save it as plain LoRA"
    )
