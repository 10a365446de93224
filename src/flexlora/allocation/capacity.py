"""How much an adapter can hold that the base does not know. Pure."""

from __future__ import annotations

import math

BITS_PER_PARAMETER = 0.3
"""About what LoRA stores in one trained parameter: 0.26 bits on the embedded model at rank 1."""


def capacity_bits(parameters: int) -> float:
    """Bits that an adapter of so many numbers may store, in round numbers."""
    return parameters * BITS_PER_PARAMETER


def most_bits(examples: int, learnt: int, vocabulary: int) -> float:
    """Bits that so many examples can hold at most: each learnt token one of all, and none of them
    to be guessed from the others or known to the base. Real texts hold a small part of it."""
    return examples * learnt * math.log2(vocabulary)
