"""The base model of a federation."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from flexlora.config.table import PathText, Table, Text, as_tuple
from flexlora.errors import shown
from flexlora.tasks.styles import STYLES


def _as_day(value: Any) -> Any:
    """A TOML date, or text that is one ("2026-11-28"), as text."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    try:
        return value if value is None else date.fromisoformat(value).isoformat()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{shown(value)} is no day; write it as 2026-11-28") from error


class ModelConfig(Table):
    """[model]: the base model, and which of its layers are adapted."""

    name: PathText = Field(
        default="tiny", description="known model, folder, GGUF file, or hub name"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="dtype of the base model's weights"
    )
    quantise: Literal["none", "4bit", "8bit"] = Field(
        default="none",
        description="hold the base model's linear layers in fewer bits (extra quant)",
    )
    device: Text = Field(
        default="auto",
        description="where the model runs: cpu, cuda, cuda:1, mps; auto: a GPU if there is one",
    )
    checkpointing: bool = Field(
        default=False,
        description="make activations anew in the backward pass: less memory, more time",
    )
    targets: Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(as_tuple)] = Field(
        default=("all-linear",),
        description="adapted layers: all-linear, attention, mlp, or layer names",
    )
    prompt: Text = Field(default="alpaca", description="name of the prompt template")
    date: Annotated[str | None, BeforeValidator(_as_day)] = Field(
        default=None,
        description="day that chat templates are told which ask for it; none: when the run began",
    )
    init_from: PathText | None = Field(
        default=None, description="PEFT folder or run directory to start from; none: the bare base"
    )
    init_force: bool = Field(
        default=False, description="start from it though it was made for another base model"
    )

    @field_validator("prompt")
    @classmethod
    def _that_is_known(cls, prompt: str) -> str:
        STYLES.named(prompt)
        return prompt

    @property
    def precision(self) -> str:
        """How the base's weights are held, for `base_fingerprint`: "float32", "bfloat16-4bit"."""
        return self.dtype if self.quantise == "none" else f"{self.dtype}-{self.quantise}"
