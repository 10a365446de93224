"""The keys of a PEFT LoRA file: which layer and side each is, and what stands beside LoRA.

Also what holds of the keys of any file: how long they are, and what foreign ones come from.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from flexlora.errors import AdapterError, shown
from flexlora.formats.peft_config import WEIGHTS
from flexlora.formats.plain_lora import unsupported

PREFIX = "base_model.model."
FROZEN = ".base_layer.weight"  # The base model's own tensor, which PEFT saves under embeddings.
Kind = Literal["linear", "embedding", "convolution", "parameter"]
LONGEST_KEY = 512  # Characters; those of real models have about 100.

# What torch.compile, FSDP and activation checkpointing put into the names of what they wrap, at
# any depth; and what DDP and PEFT itself put before them.
_INNER = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_OUTER = re.compile(r"(?:base_model\.model\.|module\.)*")
_PAIR = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
_EMBEDDING = re.compile(r"(?P<layer>.+)\.lora_embedding_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?")
# What VeLoRA's backward pass compresses by; what the pair computes is without it.
_OF_TRAINING = re.compile(r".+\.lora_velora_embed(?:\.[^.]+)?")
# How models call their token embeddings and their head, which PEFT saves whole where the
# vocabulary was resized.
_VOCABULARY = re.compile(
    r"(?:.+\.)?(?:embed_tokens|lm_head|wte|embed_in|embed_out|embeddings|word_embeddings|tok_embeddings|shared)"
    r"\.(?:weight|bias)"
)

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


def plain_name(key: str) -> str:
    """The key, or the layer's name, as the base model has it: without PEFT's and other wrappers."""
    inner = _INNER.sub("", key)
    outer = _OUTER.match(inner)
    return inner[outer.end() if outer else 0 :]


def require_short(path: Path, key: str) -> None:
    """Raise AdapterError for a key that no model has; path: the file that holds it."""
    if len(key) > LONGEST_KEY:
        raise AdapterError(
            f"{path} holds a tensor of a name of {len(key)} characters ({shown(key)}), above the "
            f"limit of {LONGEST_KEY}; save the adapter again"
        )


def require_named(name: str) -> None:
    """Raise AdapterError for a layer that no reader would find again under this name."""
    wrong = ""
    if not name or not name.isprintable():
        wrong = "no name of printable characters"
    elif plain_name(name) != name:
        wrong = f"wrapped: readers take it for {shown(plain_name(name))}"
    elif len(pair_keys(name, "embedding")[0]) > LONGEST_KEY:
        wrong = f"{len(name)} characters long, where a key holds {LONGEST_KEY}"
    if wrong:
        raise AdapterError(f"layer {shown(name)} of the adapter is {wrong}; give its plain name")


def twice(path: Path, what: str) -> AdapterError:
    """The refusal of a layer or tensor that comes under two keys."""
    return AdapterError(f"{path} holds {what} twice; save one adapter only")


def variant(key: str) -> str:
    """What a tensor that is no half of a LoRA pair comes from, for its refusal."""
    words = next((words for part, words in _FOREIGN.items() if part in key.lower()), None)
    if words is None and key.endswith(("bias", ".diff_b")):
        words = "trained biases"
    if words is None and key.endswith(".diff"):
        words = "whole differences beside LoRA"
    return f"{words} (tensor {shown(key)})" if words else f"tensor {shown(key)}"


def pair_keys(name: str, kind: Kind = "linear") -> tuple[str, str]:
    """The keys of a layer's a and b in PEFT's file."""
    if kind == "embedding":
        return f"{PREFIX}{name}.lora_embedding_A", f"{PREFIX}{name}.lora_embedding_B"
    return f"{PREFIX}{name}.lora_A.weight", f"{PREFIX}{name}.lora_B.weight"


def is_vocabulary(key: str) -> bool:
    """True for token embeddings or a head saved whole."""
    return _VOCABULARY.fullmatch(plain_name(key)) is not None


def sorted_out(
    path: Path, keys: Iterable[str], modules: Sequence[str]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Layer → side → key in the file, and key as PEFT writes it → key in the file of what stands
    beside LoRA: `modules` (modules_to_save), embeddings and heads. Every tensor is accounted for;
    what is of training alone is left out.

    Raises AdapterError for a tensor that is none of these, and for more adapters than one.
    """
    pairs: dict[str, dict[str, str]] = defaultdict(dict)
    whole: dict[str, str] = {}
    adapters: set[str] = set()
    saved = _Modules(modules)
    for key in sorted(keys):
        require_short(path / WEIGHTS, key)
        name = plain_name(key)
        match = _PAIR.fullmatch(name) or _EMBEDDING.fullmatch(name)
        if match is not None:
            layer, side = match["layer"], match["side"]
            adapters |= {match["adapter"]} - {None}
            if len(adapters) > 1:
                raise AdapterError(
                    f"{path} holds several adapters in one file "
                    f"({' and '.join(map(shown, sorted(adapters)))}); save each to a folder of its "
                    "own"
                )
            if side in pairs[layer]:
                raise twice(path, f"layer {layer}")
            pairs[layer][side] = key
        elif _OF_TRAINING.fullmatch(name):
            continue
        elif key.endswith(FROZEN) or is_vocabulary(key) or saved.hold(name):
            if PREFIX + name in whole:
                raise twice(path, name)
            whole[PREFIX + name] = key
        else:
            raise unsupported(path, variant(key))
    if not pairs:
        raise AdapterError(f"{path / WEIGHTS} holds no LoRA tensors; save the adapter again")
    return pairs, whole


class _Modules:
    """Names of modules, any of which may be a run of whole parts of a key, but not its end."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_parts: dict[int, set[str]] = defaultdict(set)
        for name in names:
            self._by_parts[name.count(".") + 1].add(plain_name(f"{name}.")[:-1])

    def hold(self, key: str) -> bool:
        parts = key.split(".")
        return any(
            ".".join(parts[begin : begin + width]) in names
            for width, names in self._by_parts.items()
            for begin in range(len(parts) - width)
        )
