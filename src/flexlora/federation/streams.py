"""Named random streams from one seed: the same name gives the same numbers, whatever else is drawn.

No stream has a state that outlives its use, so a resumed run draws what an unbroken one would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flexlora.seeds import seed_of, seeded


@dataclass(frozen=True)
class Streams:
    """All randomness of a run. `seed` is any integer."""

    seed: int

    def derive(self, *names: str | int) -> int:
        """A 63-bit seed for this name, independent between names: 1 is not "1"."""
        return seed_of(self.seed, *names)

    def generator(self, *names: str | int) -> torch.Generator:
        """A fresh CPU generator for this name; all bits of its seed count."""
        return seeded(self.derive(*names))
