"""What a GGUF file must be to be read: a whole language model, in numbers that can be unpacked.

transformers passes over tensors that it has no name for, without a word; here that is an error,
since what is left would be another model.
"""

from __future__ import annotations

from typing import Any

from flexlora.errors import ModelError, seen
from flexlora.formats.gguf_header import GgufHeader, GgufTensor
from flexlora.models.gguf_rope import ROPE_TENSORS

ORIGINAL = "give the model as safetensors, or a GGUF file of another kind"
"""What may be done about a file that nobody here reads."""


def require_readable(header: GgufHeader, name: str) -> None:
    """Raise ModelError for what is no whole language model, or in numbers that nobody unpacks."""
    architecture = header.text("general.architecture")
    kind = header.text("general.type")
    if kind == "adapter" or any(key.startswith("adapter.") for key in header.values):
        raise ModelError(
            f"model {name} is an adapter, not a model; give the GGUF file of the model that it was "
            "made for"
        )
    if kind == "mmproj" or architecture == "clip":
        raise ModelError(
            f"model {name} is a projector for images or sounds, not a language model; give the "
            "GGUF file of the language model beside it"
        )
    parts = header.whole("split.count")
    if parts > 1:
        raise ModelError(
            f"model {name} is one of {parts} parts; join them into one file, with llama.cpp's "
            "llama-gguf-split --merge, and give that"
        )
    if not architecture or not header.tensors:
        lack = "names no architecture" if header.tensors else "has no weights"
        raise ModelError(f"model {name} {lack}; give the GGUF file of a language model")
    _require_tokenizer(header, name)
    _require_counts(header, architecture, name)
    _require_types(header, name)


def require_placed(header: GgufHeader, model: Any, name: str) -> None:
    """Raise ModelError where the file has more numbers than the model takes, or fewer.

    Not for what is no part of it: frequencies that the config says, layers behind the last (which
    guess further tokens), and an output head of which it has a copy.
    """
    layers = model.config.get_text_config().num_hidden_layers
    tied = model.config.get_text_config().tie_word_embeddings

    def is_beside(key: str) -> bool:
        first, _, rest = key.partition(".")
        place = rest.partition(".")[0]
        behind = first == "blk" and place.isdecimal() and int(place) >= layers
        return key in ROPE_TENSORS or behind or (tied and key == "output.weight")

    given = sum(tensor.numbers for tensor in header.tensors if not is_beside(tensor.name))
    kept = model.state_dict().keys()
    asked = sum(parameter.numel() for parameter in model.parameters())
    buffers = (buffer for name, buffer in model.named_buffers() if name in kept)
    taken = asked + sum(buffer.numel() for buffer in buffers)
    if given < asked:
        raise ModelError(
            f"model {name} has {given:,} numbers in its file, and a {type(model).__name__} as it "
            f"says has {asked:,}; give a whole GGUF file: copy it again"
        )
    if given > taken:
        raise ModelError(
            f"model {name} has {given:,} numbers in its file, of which transformers reads "
            f"{taken:,} into a {type(model).__name__}: the rest would be lost; give the model as "
            "safetensors"
        )


def _require_tokenizer(header: GgufHeader, name: str) -> None:
    words = header.lengths.get("tokenizer.ggml.tokens", 0)
    end = header.values.get("tokenizer.ggml.eos_token_id")
    if not words:
        lack = "has no tokenizer in its file"
    elif type(end) is not int:
        lack = "names no EOS token, which ends every response"
    elif not 0 <= end < words:
        lack = f"has its EOS token at {end:,}, beyond the {words:,} words of its tokenizer"
    else:
        return
    raise ModelError(
        f"model {name} {lack}; give a GGUF file as llama.cpp's convert_hf_to_gguf.py writes it"
    )


def _require_counts(header: GgufHeader, architecture: str, name: str) -> None:
    """Hold what a model is built of, layer by layer, to the tensors that there are."""
    largest = max(max(tensor.shape, default=1) for tensor in header.tensors)
    for key, most in (("block_count", len(header.tensors)), ("expert_count", largest)):
        count = header.whole(f"{architecture}.{key}")
        if count > most:
            raise ModelError(
                f"model {name} has {architecture}.{key} {count:,}, more than its "
                f"{len(header.tensors):,} tensors can be of; give a whole GGUF file: copy it again"
            )


def _require_types(header: GgufHeader, name: str) -> None:
    """Hold every tensor to a type that can be unpacked, and to the end of the file."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    known = {int(kind): kind for kind in GGMLQuantizationType}
    blank: set[int] = set()
    for tensor in header.tensors:
        kind = known.get(tensor.type)
        if kind is None or kind not in GGML_QUANT_SIZES:
            raise _of_type(tensor, f"of the unknown type {tensor.type}", name)
        numbers, nbytes = GGML_QUANT_SIZES[kind]
        if tensor.type not in blank:
            try:
                dequantize(np.zeros((1, nbytes), np.uint8), kind)
            except Exception as error:
                raise _of_type(
                    tensor, f"in {kind.name}, which gguf does not unpack", name
                ) from error
            blank.add(tensor.type)
        if tensor.shape[-1:] and tensor.shape[-1] % numbers:
            raise ModelError(
                f"model {name} has tensor {seen(tensor.name)} in blocks of {numbers} numbers, "
                f"{tensor.shape[-1]:,} to a row; give a whole GGUF file: copy it again"
            )
        end = tensor.begin + tensor.numbers // numbers * nbytes
        if end > header.size:
            raise ModelError(
                f"model {name} is truncated: its file has {header.size:,} bytes, and tensor "
                f"{seen(tensor.name)} ends at byte {end:,}; copy it again"
            )


def _of_type(tensor: GgufTensor, what: str, name: str) -> ModelError:
    return ModelError(f"model {name} has tensor {seen(tensor.name)} {what}; {ORIGINAL}")
