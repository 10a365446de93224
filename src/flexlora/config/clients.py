"""Who takes part, at which ranks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from flexlora.allocation.mixes import LARGEST_SCALE, Mix, build_mix
from flexlora.config.table import Table


class ClientsConfig(Table):
    """[clients]: how many clients are of which type. Types and mixes: `allocation.mixes`."""

    mix: str | dict[str, float] = Field(
        default="uniform", description="name of a mix, or type name → share, summing to 1"
    )
    scale: Annotated[float, Field(gt=0.0, le=LARGEST_SCALE)] = Field(
        default=1.0, description="factor on every rank of the mix"
    )
    types: dict[str, int | dict[str, int]] = Field(
        default={}, description="types of one's own: name → rank, or → {pattern = rank}"
    )

    def build_mix(self) -> Mix:
        """The mix with its ranks scaled. Raises ConfigError for shares or types that are wrong."""
        return build_mix(self.mix, self.types, self.scale)
