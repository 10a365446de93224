"""What an adapter is for: the model, which of its layers, and the task; for whoever loads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

TASK_TYPE: Final = "CAUSAL_LM"  # What an adapter is taken for, where nothing is said.


@dataclass(frozen=True)
class About:
    """As the config of a PEFT folder has it, but for `base_fingerprint`, of which PEFT notes none.

    base: the model that it was made for; revision: of it, on the hub; base_fingerprint:
    "<precision>:<sha256 of its weights>"; "" for unknown. fan_in_fan_out: whether that model keeps
    its weights as (n, m), as GPT-2's Conv1D does. task_type, auto_mapping: from which PEFT's auto
    classes tell the model's; None for none. selection: how layers are told among all of the
    model's, `target_modules` and what narrows it; empty for their full names. It outlasts what a
    model's layers are renamed to, which full names do not.
    """

    base: str = ""
    base_fingerprint: str = ""
    revision: str = ""
    fan_in_fan_out: bool = False
    task_type: str | None = TASK_TYPE
    auto_mapping: Mapping[str, Any] | None = None
    selection: Mapping[str, Any] = field(default_factory=dict)
