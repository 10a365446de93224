"""Loading a frozen base model and its tokenizer, with every failure named."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flexlora.errors import ModelError, nearest
from flexlora.formats.fingerprint import fingerprint
from flexlora.models.checkpointing import checkpoint_layers
from flexlora.models.context import context_of
from flexlora.models.device import find_device
from flexlora.models.places import folder_of
from flexlora.models.quantised import NONE, quantise_options, scales
from flexlora.models.weights import first_line, load_config, load_weights, outline
from flexlora.models.widened import lacks_bfloat16, widen

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A frozen causal language model in eval mode, its tokenizer (with a pad token), its name.

    context: the most positions a sequence may have.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    context: int


def load_model(
    name: str | Path,
    dtype: str = "float32",
    device: str = "cpu",
    *,
    quantise: str = NONE,
    checkpointing: bool = False,
    without_weights: bool = False,
) -> BaseModel:
    """Load a model of `known.KNOWN` ("tiny" is embedded), a folder, a GGUF file or a folder that
    has one, or a name on the Hugging Face hub.

    Safetensors or GGUF only and no code from the model's folder: loading cannot run foreign code.
    A folder is read without any network. A GGUF file is unpacked once (see `gguf.unpacked`).
    Weights are cast to `dtype` ("float32" or "bfloat16"), frozen; a tokenizer without a pad token,
    or with one that the model has no embedding for, pads with its EOS token.

    device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the best there is. quantise: "none", or
    "4bit" or "8bit" linear layers (see `quantise_options`). checkpointing: make activations anew
    in the backward pass rather than keep them (see `checkpoint_layers`).

    without_weights: the layers alone, on no device, which is enough to see what would be adapted
    and to encode data; the hub is not asked for weights, those of a folder are held to the layers
    by the headers of their files.

    Raises ModelError naming the model, what is wrong with it and what to do: no folder, no
    config.json, weights missing, truncated, foreign or pickled, no causal language model, no
    tokenizer, no EOS token, unknown dtype, a device that is not there or too small, a known model
    whose package is not installed.
    """
    if dtype not in _DTYPES:
        raise ModelError(f"dtype '{dtype}' of model {name} is unknown; {nearest(dtype, _DTYPES)}")
    place = find_device(device)
    quantised = quantise != NONE
    options = quantise_options(quantise, str(name), _DTYPES[dtype], place) if quantised else {}
    with quiet():
        source = folder_of(name, weights=not without_weights)
        where = {
            "pretrained_model_name_or_path": str(source or name),
            "local_files_only": source is not None,
            "trust_remote_code": False,
        }
        config = load_config(where, str(name), quantised=quantised)
        if without_weights:
            model = outline(config, str(name), source)
        else:
            model = load_weights(where, str(name), config, _DTYPES[dtype], place, options)
            if place.type == "cpu" and lacks_bfloat16():
                widen(model)
        tokenizer = _load_tokenizer(where, str(name), model)
    model.eval().requires_grad_(False)
    if checkpointing and not without_weights:
        checkpoint_layers(model, str(name))
    return BaseModel(model, tokenizer, str(name), context_of(model, tokenizer))


def model_fingerprint(model: nn.Module) -> str:
    """sha256 over names, dtypes, shapes and bytes of all parameters, in name order.

    The same on every device, but for a quantised model, whose scales it covers: devices may round
    them differently.
    """
    return fingerprint((*model.named_parameters(), *scales(model)))


def _load_tokenizer(where: dict[str, Any], name: str, model: Any) -> Any:
    """The tokenizer, with a pad token and with EOS inside the model's vocabulary."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except Exception as error:
        raise ModelError(
            f"model {name} has no tokenizer that can be loaded: {first_line(error)}; "
            "copy tokenizer.json and tokenizer_config.json beside config.json"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of model {name} has no EOS token, which ends every response; "
            "set eos_token in tokenizer_config.json"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.eos_token_id >= rows:
        raise ModelError(
            f"the tokenizer of model {name} has its EOS token at {tokenizer.eos_token_id}, beyond "
            f"the model's {rows} embeddings; copy the tokenizer that belongs to the model"
        )
    # A pad token is often added without resizing the model; masked, its value never matters.
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and progress bars of transformers and the hub's library away, for a while.

    The hub's tells of every try to reach it: that it failed is in our own error.
    """
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_level = hub.get_verbosity()
    logging.set_verbosity_error()
    hub.set_verbosity(hub.log_levels["error"])
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        hub.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()
