"""Who takes part, at which ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from flexlora.adapters import Ranks
from flexlora.allocation.mixes import LARGEST_SCALE, Mix, build_mix, require_rank, scaled_types
from flexlora.config.table import Table
from flexlora.errors import shown
from flexlora.options import MANY

_RANK = "rank "  # What a type begins with that is no name but ranks.


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
    ranks: dict[str, int | dict[str, int]] = Field(
        default={},
        description="clients by name: client → rank, or → {pattern = rank}, whatever the scale; "
        "the mix deals out the others",
    )
    level: Literal["own", "lowest", "highest"] = Field(
        default="own",
        description="at which ranks clients train: each at its own, or, as a control, all at the "
        "lowest or the highest that any client has, layer by layer",
    )
    strict: bool = Field(
        default=False,
        description="refuse a rank above min(m, n) of a layer, where it is cut to that, with a "
        "note",
    )

    def build_mix(self) -> Mix:
        """The mix with its ranks scaled. Raises ConfigError for shares or types that are wrong."""
        return build_mix(self.mix, self.types, self.scale)

    def named(self) -> dict[str, str]:
        """Client → type of those that have ranks of their own; equal ranks are one type."""
        return {client: type_of(ranks) for client, ranks in self.ranks.items()}

    def all_types(self) -> Mapping[str, Ranks]:
        """Type → its ranks, also of types without a share, and of those that ranks stand for.

        Raises ConfigError for a rank of a named client that none can have.
        """
        for client, ranks in self.ranks.items():
            for pattern, rank in Ranks.of(ranks).patterns:
                require_rank(rank, f"for {shown(pattern)} of client {shown(client)}")
        own = {type_of(ranks): Ranks.of(ranks) for ranks in self.ranks.values()}
        return {**scaled_types(self.types, self.scale), **own}

    def ranks_of(self, kind: str) -> Ranks | None:
        """A type's ranks; None for a type that there is not."""
        number = kind.removeprefix(_RANK)
        whole = kind.startswith(_RANK) and number.isdecimal() and len(number) < len(str(MANY))
        return self.all_types().get(kind) or (Ranks.of(int(number)) if whole else None)


def type_of(ranks: int | Mapping[str, int]) -> str:
    """What clients of these ranks are called as a type: "rank 64", "rank attention 4, all 8"."""
    return f"{_RANK}{Ranks.of(ranks)}"
