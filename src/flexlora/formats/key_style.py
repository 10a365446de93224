"""How the keys of a single-file adapter name layers and sides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class KeyStyle:
    """One way to name them. pair: matches the key of a side, with the group `layer`, and `a` or
    `down` where it is A. alpha: whether every layer has a tensor `.alpha`, the scale times r.
    """

    name: str
    pair: re.Pattern[str]
    alpha: bool

    def parts(self, key: str) -> tuple[str, Literal["A", "B"]] | None:
        """(layer, side) of a key; None for one of another style."""
        match = self.pair.fullmatch(key)
        if match is None:
            return None
        found = match.groupdict()
        return match["layer"], "A" if found.get("a") or found.get("down") else "B"
