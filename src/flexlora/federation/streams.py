"""Named random streams from one seed: the same name gives the same numbers, whatever else is drawn.

No stream has a state that outlives its use, so a resumed run draws what an unbroken one would.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Streams:
    """All randomness of a run. `seed` is any integer."""

    seed: int

    def derive(self, *names: str | int) -> int:
        """A 63-bit seed for this name, independent between names."""
        text = "/".join(str(part) for part in (self.seed, *names))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, *names: str | int) -> torch.Generator:
        """A fresh CPU generator for this name."""
        return torch.Generator().manual_seed(self.derive(*names))
