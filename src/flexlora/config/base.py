"""The base model that a config names."""

from __future__ import annotations

from flexlora.config.config import ModelConfig
from flexlora.models import BaseModel, load_model


def load_base(
    config: ModelConfig, device: str | None = None, *, outline: bool = False
) -> BaseModel:
    """Load it as the config says. device: instead of the config's; outline: without its weights.

    Raises as `load_model` does.
    """
    return load_model(
        config.name,
        config.dtype,
        device or config.device,
        quantise=config.quantise,
        checkpointing=config.checkpointing,
        without_weights=outline,
    )
