"""How the keys of a single-file adapter name layers and sides, and what they name beside LoRA."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flexlora.errors import AdapterError, shown

# What stands in keys of adapters whose update is not scale · B A of two plain matrices.
_FOREIGN = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "a convolution in three parts (Tucker)",
    "oft_": "OFT",
    "boft_": "BOFT",
    "vera_lambda": "VeRA",
    "lora_diag": "KaSA",
    "xlora": "X-LoRA",
    "randlora_": "RandLoRA",
    "on_input": "IA3",
}


@dataclass(frozen=True)
class KeyStyle:
    """One way to name them. pair: matches the key of a side, with the group `layer`, and `a` or
    `down` where it is A. alpha: whether every layer has a tensor `.alpha`, the scale times r.
    """

    name: str
    pair: re.Pattern[str]
    alpha: bool

    def parts(self, key: str) -> tuple[str, Literal["A", "B"]] | None:
        """(layer, side) of a key; None for one of another style."""
        match = self.pair.fullmatch(key)
        if match is None:
            return None
        found = match.groupdict()
        return match["layer"], "A" if found.get("a") or found.get("down") else "B"


def foreign(path: Path, key: str) -> AdapterError:
    """The refusal of a tensor that is no side of a layer, naming what it comes from if known."""
    words = next((words for part, words in _FOREIGN.items() if part in key.lower()), None)
    if words is None and key.endswith(("bias", ".diff_b")):
        words = "trained biases"
    if words is None and key.endswith(".diff"):
        words = "whole differences beside LoRA"
    what = f"{words} (tensor {shown(key)})" if words else f"tensor {shown(key)}"
    return AdapterError(
        f"{path} holds {what}, which is no plain LoRA pair; train or save it as plain LoRA"
    )
