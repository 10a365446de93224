"""Rules that make a machine short of memory, or a client that never ends.

A worker that imports this file has them under their names.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from flexlora.adapters import Adapter
from flexlora.models import AdaptedModel
from flexlora.rules import Encoded, Memory
from flexlora.rules.flexlora import FlexLoRA
from flexlora.rules.increment import FlexLoRAIncrement

Start = Callable[..., Any]


def short_of(room: int) -> Start:
    """`AdaptedModel.start` with room for adapters of so many ranks in all."""
    start = AdaptedModel.start

    def begin(model: AdaptedModel, adapters: Sequence[Adapter], **options: Any) -> Any:
        if sum(max(adapter.ranks.values()) for adapter in adapters) > room:
            torch.empty(2**60)  # torch's own error.
        return start(model, adapters, **options)

    return begin


class Scarce(FlexLoRA):  # type: ignore[misc]
    """Whichever process it is sent to has room for adapters of three ranks."""

    name = "scarce"

    def __reduce__(self) -> tuple[Callable[[], Scarce], tuple[()]]:
        return _arrive, ()


def _arrive() -> Scarce:
    AdaptedModel.start = short_of(3)  # type: ignore[method-assign]
    return Scarce()


class Endless(FlexLoRAIncrement):  # type: ignore[misc]
    """From its tenth client on, no client ends. What has been begun is in the folder $BEGUN."""

    def encode(self, trained: Adapter, sent: Adapter, memory: Memory) -> Encoded:
        begun = Path(os.environ["BEGUN"])
        (begun / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        while len(list(begun.iterdir())) >= 10:
            time.sleep(0.05)
        return super().encode(trained, sent, memory)
