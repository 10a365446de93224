"""A GGUF file → a folder as `save_pretrained` writes it, read by transformers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError

from flexlora.errors import FlexLoRAError, ModelError, seen
from flexlora.formats.gguf_header import GgufHeader
from flexlora.formats.words import size
from flexlora.models.gguf_checks import ORIGINAL, require_placed
from flexlora.models.gguf_rope import ROPE_TENSORS, rope_of
from flexlora.models.weights import first_line, load_config, outline
from flexlora.shortage import out_of_memory

LARGEST_OUTLINE = 1 << 26
"""Bytes of config and tokenizer, at most so many for any vocabulary that there is."""


def unpacked_bytes(header: GgufHeader) -> int:
    """Of its folder, weights in float32."""
    return 4 * sum(tensor.numbers for tensor in header.tensors) + LARGEST_OUTLINE


def write_outline(file: Path, header: GgufHeader, name: str, folder: Path) -> None:
    """Config and tokenizer. Raises ModelError for what transformers cannot read, what is no causal
    language model, and tensors that the model has no place for.
    """
    from transformers import AutoConfig, AutoTokenizer

    kind = header.text("general.architecture")
    with _reading(file) as where:
        try:
            config = AutoConfig.from_pretrained(**where)
        except Exception as error:
            raise ModelError(
                f"model {name} is a {seen(kind)}, which transformers cannot read from a GGUF file: "
                f"{first_line(error)}; {ORIGINAL}"
            ) from error
        if any(tensor.name in ROPE_TENSORS for tensor in header.tensors):
            config.rope_parameters = rope_of(file, config, name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(**where)
        except Exception as error:
            raise ModelError(
                f"model {name} has a tokenizer that transformers cannot read from a GGUF file: "
                f"{first_line(error)}; {ORIGINAL}"
            ) from error
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    require_placed(header, outline(_config(folder, name), name, None), name)


def write_weights(file: Path, header: GgufHeader, name: str, outlined: Path, folder: Path) -> None:
    """The whole model, in float32; outlined: what `write_outline` wrote. Memory: the model.

    Raises ModelError for tensors that cannot be read or that the model lacks.
    """
    from transformers import AutoModelForCausalLM, GgufConfig

    config = _config(outlined, name)
    with _reading(file) as where:
        try:
            read, report = AutoModelForCausalLM.from_pretrained(
                **where,
                config=config,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
        except Exception as error:
            if out_of_memory(error):
                raise ModelError(
                    f"model {name} takes {size(unpacked_bytes(header))} of memory while it is "
                    "unpacked, once; do it on a machine that has them and copy the cache, or give "
                    "a smaller model"
                ) from error
            raise ModelError(
                f"weights of model {name} cannot be read: {first_line(error)}; {ORIGINAL}"
            ) from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"weights of model {name} lack {len(missing)} parameters, {missing[0]} first; give a "
            "whole GGUF file: copy it again"
        )
    # What was read counts as quantised, which nobody may save: the same tensors in a new model.
    model = outline(config, name, None)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # What the disk refuses, it calls so.
        raise FlexLoRAError(
            f"cannot write {folder.parent}: {first_line(error)}; free space there or name another "
            "cache"
        ) from error
    for path in outlined.iterdir():
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
    for path in folder.glob("*.safetensors"):  # Which safetensors makes for this user alone.
        path.chmod((folder / "config.json").stat().st_mode)


def _config(folder: Path, name: str) -> Any:
    here = {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
    return load_config({**here, "trust_remote_code": False}, name, quantised=False)


@contextmanager
def _reading(file: Path) -> Iterator[dict[str, Any]]:
    """What `from_pretrained` takes. From an empty folder: what lies beside a file is not of it.

    Nor may a progress bar be seen, which is drawn whatever transformers is told.
    """
    with TemporaryDirectory() as empty, redirect_stderr(StringIO()):
        yield {
            "pretrained_model_name_or_path": empty,
            "gguf_file": str(file),
            "local_files_only": True,
            "trust_remote_code": False,
        }
