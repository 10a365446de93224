"""A causal language model as its files hold it: what it is, its layers, its weights."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from flexlora.errors import ModelError
from flexlora.models.known import KNOWN
from flexlora.models.quantised import NONE, keep_packing
from flexlora.shortage import out_of_memory


def load_config(where: dict[str, Any], name: str, *, quantised: bool) -> Any:
    """What the model is. Raises ModelError for one that is no causal language model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(**where)
    except Exception as error:
        cure = "repair config.json: it needs a model_type that transformers knows"
        if not where["local_files_only"]:
            near = get_close_matches(name, KNOWN, n=1)
            cure = "check the name and the network, or give a folder"
            cure = f"did you mean '{near[0]}'?" if near else cure
        raise ModelError(f"model {name} cannot be read: {first_line(error)}; {cure}") from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(
            f"model {name} is of type {config.model_type}, not a causal language model; "
            "give a decoder such as Llama, Qwen, Gemma or GPT-2"
        )
    masked = [x for x in config.architectures or () if x.endswith("ForMaskedLM")]
    if masked:
        raise ModelError(
            f"model {name} is a {masked[0]}, not a causal language model; "
            "give a decoder such as Llama, Qwen, Gemma or GPT-2"
        )
    if quantised and getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"model {name} is quantised in its files already; set model.quantise to {NONE}"
        )
    return config


def load_weights(
    where: dict[str, Any],
    name: str,
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    options: dict[str, Any],
) -> Any:
    """The model on its device, every parameter of which came from the file."""
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            **where,
            **options,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
        keep_packing(model)
    except Exception as error:
        _require_room(error, name, device)
        raise ModelError(
            f"weights of model {name} cannot be loaded: {first_line(error)}; they are truncated, "
            "not safetensors, or do not fit config.json: copy or convert the model again"
        ) from error
    _require_all(name, sorted(report["missing_keys"]))
    if options:  # Its reader has put it there.
        return model
    try:
        return model.to(device)
    except Exception as error:
        _require_room(error, name, device)
        raise ModelError(
            f"model {name} cannot be put on {device}: {first_line(error)}; mend that device, or "
            "set another model.device"
        ) from error


def _require_room(error: Exception, name: str, device: torch.device) -> None:
    """Raise ModelError where that error says that there is none."""
    if out_of_memory(error):
        raise ModelError(
            f"model {name} does not fit into the memory of {device}; set model.dtype to "
            "bfloat16, model.quantise, or another model.device"
        ) from error


def outline(config: Any, name: str, folder: Path | None) -> Any:
    """The model's layers on no device at all; of a folder, weights that fit them."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        raise ModelError(
            f"model {name} cannot be built: {first_line(error)}; repair config.json"
        ) from error
    if folder is not None:
        _require_weights(model, name, folder)
    return model


def _require_weights(model: Any, name: str, folder: Path) -> None:
    """Raise ModelError for weight files that are cut short, or of other shapes than the layers.

    What transformers renames or splits while it loads is not known here, so a tensor that is not
    found by name proves nothing.
    """
    held: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                names = list(opened.keys())
                held |= {key: tuple(opened.get_slice(key).get_shape()) for key in names}
        except Exception as error:
            raise ModelError(
                f"weights of model {name} cannot be loaded: {first_line(error)}; {file.name} is "
                "truncated or not safetensors: copy or convert the model again"
            ) from error
    for key, parameter in model.named_parameters():
        if key in held and held[key] != tuple(parameter.shape):
            raise ModelError(
                f"weights of model {name} cannot be loaded: {key} is {held[key]}, expected "
                f"{tuple(parameter.shape)}; they do not fit config.json: copy the model again"
            )


def _require_all(name: str, missing: list[str]) -> None:
    if missing:
        raise ModelError(
            f"weights of model {name} lack {len(missing)} parameters, {missing[0]} first; they "
            "belong to another model: copy model.safetensors that fits config.json"
        )


def first_line(error: Exception) -> str:
    """The first line of an error, without a full stop, of at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".:; ")
