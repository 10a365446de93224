"""PEFT LoRA folders: written so that PEFT computes the same update, and read from any writer.

PEFT itself is not imported: the format is two files, `adapter_config.json` and
`adapter_model.safetensors`. What that format cannot hold (a layer's rank without the zeros that
fill it up, a scale that no α/r rounds to, the base model's fingerprint) lies in `flexlora.json`
beside them, which other readers ignore.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from flexlora.adapters import Adapter
from flexlora.errors import AdapterError
from flexlora.formats.peft_config import CONFIG, WEIGHTS
from flexlora.formats.peft_form import Form
from flexlora.formats.peft_keys import Kind, is_vocabulary, pair_keys, require_named
from flexlora.formats.peft_reader import PeftReader
from flexlora.formats.peft_writer import peft_folder
from flexlora.formats.plain_lora import unsupported
from flexlora.formats.stored_dtype import dtype_named, require_floats

_A_KIND: Final[Mapping[Kind, str]] = {
    "embedding": "an embedding",
    "convolution": "a convolution",
    "parameter": "a bare parameter",
}


def save_peft(
    adapter: Adapter,
    folder: Path | str,
    *,
    base_model: str | None = None,
    fan_in_fan_out: bool | None = None,
    compact: bool = False,
    serve: str | None = None,
    dtype: str | None = None,
) -> None:
    """Write the adapter as a new PEFT folder, whole or not at all.

    base_model: what the folder names as its base; fan_in_fan_out: True for models built of Conv1D
    (GPT-2): the tensors are the same, PEFT only warns without it. Default: the adapter's own.
    The fingerprint of the base, where the adapter knows it, is kept and comes back from `load_peft`
    (but not for a `base_model` other than the adapter's).

    Every reader reads it alike: all layers have one rank, the highest, filled up with zeros; α is
    r, and the scale is in B, rounded once. `load_peft` leaves the zeros out again.
    compact: keep ranks, scales and every bit, which PEFT reads, and others may not: r and α are
    then the most common ones, every other layer has a pattern anchored to its full name, and α is
    chosen such that PEFT's α/r is the layer's scale to the last bit wherever a float64 allows it.
    serve: "vllm" for a rank that vLLM supports, and nothing that it does not. dtype: "float32",
    "float16" or "bfloat16" for A and B in the file, rounded once; None for what they have.
    A layer of rank 0 is written as zeros: any reader loads it, and it adds nothing. Equal adapters
    give equal bytes. Raises RunError when the folder exists, AdapterError for an adapter without
    layers, with NaN, infinity or a value that the dtype cannot hold, of numbers that are no floats
    of two bytes or more, of names that would not come back, or that the server refuses,
    RankError for a rank that it refuses, ConfigError for an unknown dtype or server, or compact
    together with one.
    """
    stored = dtype_named(dtype)
    form = Form.of(compact=compact, serve=serve)
    if not adapter:
        raise AdapterError("the adapter has no layers; there is nothing to save")
    for name, factors in adapter.items():
        require_named(name)
        require_floats(name, factors)
    adapter.require_finite()
    about = adapter.about
    if base_model is not None and base_model != about.base:
        about = replace(about, base=base_model, base_fingerprint="", revision="")
    if fan_in_fan_out is not None:
        about = replace(about, fan_in_fan_out=fan_in_fan_out)
    keys = [key for name in adapter for key in pair_keys(name)]
    with peft_folder(folder, keys, about, form=form, dtype=stored) as writer:
        for name, factors in adapter.items():
            writer.add(name, factors)


def load_peft(folder: Path | str) -> Adapter:
    """Read any plain PEFT LoRA folder; dtypes stay, ranks and scales may differ by layer.

    What `save_peft` wrote comes back, if compact bit for bit. Layer names are those of the base
    model, without "base_model.model." and what torch.compile, DDP, FSDP and activation
    checkpointing put into them; `base` is the base model that the folder names.
    Raises AdapterError for a folder that is missing, damaged or not finite, for every PEFT variant
    whose update is not scale · B A, for layers that are not linear, and for whole modules saved
    beside LoRA: nothing is dropped silently.
    """
    with PeftReader(folder) as reader:
        for key in filter(is_vocabulary, reader.whole):
            raise AdapterError(
                f"{reader.path} holds {key} whole, as PEFT saves embeddings after a vocabulary was "
                "resized; if they are the base model's, save the adapter with "
                "save_pretrained(…, save_embedding_layers=False)"
            )
        if reader.whole or reader.config.get("modules_to_save"):
            where = f"tensor {reader.whole[0]}" if reader.whole else "modules_to_save"
            raise unsupported(reader.path, f"whole modules saved beside LoRA ({where})")
        for name, layer in reader.layers.items():
            if layer.kind != "linear":
                raise unsupported(
                    reader.path,
                    f"LoRA on {_A_KIND[layer.kind]} (layer {name}, of lora_A {layer.a_shape})",
                )
        return reader.adapter()


def is_peft(folder: Path | str) -> bool:
    """True for a folder that holds a PEFT adapter, sound or not, or folders that hold one each."""
    path = Path(folder)
    here = any((path / name).is_file() for name in (CONFIG, WEIGHTS))
    return here or any(found.is_file() for found in path.glob(f"*/{CONFIG}"))
