"""How many positions a sequence may have, as the model's config and its embeddings say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

_KEYS = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
_FALLBACK = 2048


def context_of(model: Any, tokenizer: Any) -> int:
    """The most positions: the model's own, else the tokenizer's, else 2,048."""
    limit = tokenizer.model_max_length  # A huge number stands for "none".
    return positions_of(model) or (int(limit) if limit < 1_000_000 else _FALLBACK)


def positions_of(model: Any) -> int:
    """The most positions that count for every sequence alike, whatever it is computed with; 0 where
    the model says none.

    Less than its config says where the first position is not 0 (RoBERTa's is one behind that of
    padding), and of LongRoPE: one sequence that is longer than what the model was made for first
    gives all of a pass other frequencies.
    """
    said = _said(model)
    behind = max(_behind_padding(model, said), default=0)
    return min([said - behind, *_first_lengths(model)]) if said else 0


def shorter(model: Any) -> str:
    """Why the context is shorter than the config says, as a clause to add; empty if it is not."""
    said, first = _said(model), min(_first_lengths(model), default=0)
    if not first or first >= said:
        return ""
    return (
        f" ({said} by its config, but with LongRoPE one longer sequence would change all that it "
        "is computed with)"
    )


def _said(model: Any) -> int:
    config = model.config.get_text_config()
    found = (getattr(config, key, None) for key in _KEYS)
    return next((x for x in found if isinstance(x, int) and x > 0), 0)


def _behind_padding(model: nn.Module, said: int) -> Iterator[int]:
    """How many positions embeddings of them leave to padding."""
    for name, module in model.named_modules():
        if not name.endswith("position_embeddings") or not isinstance(module, nn.Embedding):
            continue
        if module.padding_idx is not None and module.num_embeddings == said:
            yield module.padding_idx + 1


def _first_lengths(model: Any) -> list[int]:
    """Up to which length LongRoPE, where there is any, keeps its first frequencies."""
    config = model.config.get_text_config()
    given = getattr(config, "rope_parameters", None) or {}
    kinds = [given, *(x for x in given.values() if isinstance(x, dict))]
    return [
        int(kind["original_max_position_embeddings"])
        for kind in kinds
        if kind.get("rope_type") == "longrope" and kind.get("original_max_position_embeddings")
    ]
