"""What outlives a round per client, at the server: its ranks and the version of Δ it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ClientStore:
    """Client id → type, ranks (layer → rank), and held version (None: it was never sent Δ)."""

    types: dict[str, str]
    ranks: dict[str, dict[str, int]]
    held: dict[str, int] = field(default_factory=dict)

    @property
    def clients(self) -> list[str]:
        return sorted(self.ranks)

    def to_json(self) -> dict[str, Any]:
        return {"types": self.types, "ranks": self.ranks, "held": self.held}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ClientStore:
        return ClientStore(dict(data["types"]), dict(data["ranks"]), dict(data["held"]))
