"""How a GGUF file stretches a model's context: a divisor for each rotary frequency.

transformers reads past it. Llama 3.1 and later have it, by a formula of their own, which their
config says in four numbers; these are found again from the divisors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flexlora.errors import ModelError

ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_LOW, _HIGH, _CONTEXT = 1.0, 4.0, 8192  # As in every Llama from 3.1 on.
_CLOSE = 1e-5  # The divisors are stored in float32.


def rope_of(file: Path, config: Any, name: str) -> dict[str, Any]:
    """The config's `rope_parameters` with what the file's divisors mean.

    Raises ModelError for divisors that follow another formula.
    """
    from gguf import GGUFReader
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    held = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    plain = dict(getattr(config, "rope_parameters", None) or {})
    if "rope_theta" in plain and set(held).isdisjoint(ROPE_TENSORS[1:]):
        divisors = torch.tensor(held[ROPE_TENSORS[0]].data, dtype=torch.float64)
        asked = {
            **plain,
            "rope_type": "llama3",
            "factor": float(divisors.max()),
            "low_freq_factor": _LOW,
            "high_freq_factor": _HIGH,
            "original_max_position_embeddings": _CONTEXT,
        }
        was = config.rope_parameters
        config.rope_parameters = asked
        try:
            stretched = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0].double()
        finally:
            config.rope_parameters = was
        places = torch.arange(0, 2 * len(stretched), 2, dtype=torch.float64)
        base = plain["rope_theta"] ** (-places / (2 * len(stretched)))
        if stretched.shape == divisors.shape and torch.allclose(
            base / stretched, divisors, rtol=_CLOSE
        ):
            return asked
    raise ModelError(
        f"model {name} stretches its context by frequencies of its own, which transformers does "
        "not read from a GGUF file; give the model as safetensors"
    )
