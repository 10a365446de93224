"""Base models in 4 or 8 bits, through bitsandbytes (extra `quant`)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flexlora.errors import ModelError, nearest
from flexlora.extras import require_extras

NONE = "none"
_DEVICES = ("cpu", "cuda")  # On mps, bitsandbytes fetches its kernels from the network.
_OPTIONS: dict[str, dict[str, Any]] = {
    "4bit": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    # No threshold: which columns are outliers would be decided over all rows, and so one client's
    # numbers would depend on who trains beside it.
    "8bit": {"load_in_8bit": True, "llm_int8_threshold": 0.0},
}


def quantise_options(
    quantise: str, name: str, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """What transformers' `from_pretrained` takes for linear layers in "4bit" or "8bit".

    4bit: NF4 with double quantisation (arXiv 2305.14314), computed in `dtype`. 8bit: rows and
    activations in int8 (arXiv 2208.07339), without its outlier columns. The output head and the
    embeddings stay in `dtype`. Raises ModelError, naming the model, for another word, a device
    that it cannot run on, and ConfigError without the extra flexlora[quant].
    """
    if quantise not in _OPTIONS:
        raise ModelError(
            f"model.quantise of {name} is '{quantise}'; {nearest(quantise, (NONE, *_OPTIONS))}"
        )
    if device.type not in _DEVICES:
        raise ModelError(
            f"model.quantise of {name} is {quantise}, which needs a CUDA GPU or the CPU, not "
            f"{device}; set model.device, or model.quantise to {NONE}"
        )
    require_extras([(f"model.quantise of {name} is {quantise}", "quant")])
    # It says with every product that it casts its input.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with _without("kernels"):
        import bitsandbytes  # noqa: F401
    from transformers import BitsAndBytesConfig

    options = {**_OPTIONS[quantise], "bnb_4bit_compute_dtype": dtype}
    return {"quantization_config": BitsAndBytesConfig(**options), "device_map": {"": device}}


def is_quantised(module: nn.Module) -> bool:
    """True for a linear layer of bitsandbytes, whose weight is not the matrix it stands for."""
    return type(module).__name__ in ("Linear4bit", "Linear8bitLt")


def keep_packing(model: nn.Module) -> None:
    """Keep 4-bit weights as they were loaded: on some CPUs the first product packs them anew,
    into a form without a backward pass and with coarser scales."""
    layers: list[Any] = [module for module in model.modules() if is_quantised(module)]
    for module in layers:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def scales(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """By name, all that quantised weights mean beside their bits, which are parameters."""
    for name, module in model.named_modules():
        if is_quantised(module):
            held = {key for key, _ in module.named_parameters()}
            for key, value in module.state_dict(prefix="").items():
                if key not in held:
                    yield f"{name}.{key}", value


@contextmanager
def _without(package: str) -> Iterator[None]:
    """While the block runs, the package cannot be imported.

    bitsandbytes would use it to fetch compiled code from the network, unasked.
    """
    held = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if held is None:
            del sys.modules[package]
        else:
            sys.modules[package] = held
