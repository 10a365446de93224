"""How an adapter was written, in words."""

from __future__ import annotations

from typing import Final

CHANGES_NOTHING: Final = "it changes nothing: A or B is zero in every layer, as before any training"


def form_words(one_rank: int | None, *, file: bool = False) -> str:
    """How an adapter was written; one_rank: of every layer, None where each has its own.

    file: whether it is a single file, not a PEFT folder.
    """
    if one_rank is None and file:
        return "each layer at its own rank, α = r"
    if one_rank is None:
        return "each layer at its own rank, by patterns that PEFT reads and others may pass over"
    return f"rank {one_rank} in every layer, α = r"
