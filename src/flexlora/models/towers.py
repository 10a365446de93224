"""Which part of a model texts run through: all of it, unless the model also sees or hears."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

TEXT = "text"
# In the names of what transformers does not declare to be a tower: projectors beside one (GIT),
# experts for pictures between those for words.
_SENSES = ("vision", "visual", "image", "video", "audio", "speech")


def text_tower(model: nn.Module, head: nn.Module | None) -> Callable[[str], bool]:
    """Whether a module or a parameter of this name lies where texts run through.

    transformers declares which modalities a model takes. Where these are more than text, the text
    tower is the model's decoder and its output head, less whatever takes no text and what is
    named after another sense, also inside the decoder (Phi-4 keeps its towers there).
    """
    if not _takes(model) - {TEXT}:
        return lambda _: True
    names = {id(module): name for name, module in reversed(list(model.named_modules()))}
    asked: Any = model
    words = names.get(id(asked.get_input_embeddings()), "")
    decoder = names.get(id(asked.get_decoder()), "")
    root = decoder if _inside(words, decoder) else ""
    heads = names.get(id(head)) if head is not None else None
    apart = {name for name, module in model.named_modules() if TEXT not in _takes(module)}

    def holds(name: str) -> bool:
        if heads is not None and _inside(name, heads):
            return True
        ways = _ways(name)
        return (
            _inside(name, root)
            and apart.isdisjoint(ways)
            and not any(
                sense in way.rpartition(".")[2].lower()
                for way in ways
                if not _inside(words, way)  # What leads to the embeddings leads to the text.
                for sense in _SENSES
            )
        )

    return holds


def _takes(module: nn.Module) -> set[str]:
    """Modalities that transformers declares; text, where it declares none."""
    declared: Any = getattr(module, "input_modalities", TEXT)
    return {declared} if isinstance(declared, str) else set(declared)


def _ways(name: str) -> list[str]:
    """ "a.b.c" → "a", "a.b", "a.b.c"."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _inside(name: str, root: str) -> bool:
    return not root or name == root or name.startswith(root + ".")
