"""Seeds out of names, and random generators in which every bit of a seed counts."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch

_WORDS = 624  # Of a Mersenne twister; in torch's state they stand behind seed, counters and next.
_FIRST = 3


def seed_of(*names: str | int) -> int:
    """63 bits of sha256 over a name, whose parts are told apart: ("a", "b") is not ("a/b",)."""
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seeded(seed: int) -> torch.Generator:
    """A fresh CPU generator for this seed, from 0 to 2⁶⁴ − 1: each has numbers of its own.

    torch's `manual_seed` makes the same numbers of all seeds that share their lower 32 bits. Here
    the twister's whole state is SHAKE-128 of the seed; that takes ten microseconds.
    """
    generator = torch.Generator().manual_seed(seed)
    state = generator.get_state()
    words = state.numpy().view(np.int64)[_FIRST : _FIRST + _WORDS]
    assert words[0] == seed & 0xFFFFFFFF, "torch keeps its twister's words at another place"
    drawn = hashlib.shake_128(seed.to_bytes(8, "little")).digest(4 * _WORDS)
    words[:] = np.frombuffer(drawn, dtype="<u4")
    generator.set_state(state)
    return generator
