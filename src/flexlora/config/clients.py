"""Who takes part, at which ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from flexlora.adapters import Ranks
from flexlora.allocation.mixes import (
    LARGEST_RANK,
    LARGEST_SCALE,
    Mix,
    build_mix,
    require_rank,
    scaled_types,
)
from flexlora.config.table import PathText, Positive, Table, quantity_of
from flexlora.errors import shown
from flexlora.formats.quantities import MEMORY, quantity
from flexlora.options import MANY

MAX_RANK = 256  # Of devices, as `flexlora plan` has it.
_RANK = "rank "  # What a type begins with that is no name but ranks.


class ClientsConfig(Table):
    """[clients]: how many clients are of which type, or have which device.

    Types and mixes: `allocation.mixes`; devices: `config.devices`, and what they afford:
    `federation.allocating`.
    """

    mix: str | dict[str, float] | None = Field(
        default=None,
        description="name of a mix, or type name → share, summing to 1; none: uniform",
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
    devices: PathText | None = Field(
        default=None,
        description="instead of mix, types and scale: a file of device classes as flexlora plan "
        "takes it; each class trains at the rank that it affords",
    )
    order: Literal["uniform", "ffn-first"] = Field(
        default="uniform",
        description="of devices: where ranks grow, in all layers alike or in the paper's "
        "proportion, 30 to 200",
    )
    max_rank: Annotated[int, Field(ge=1, le=LARGEST_RANK)] | None = Field(
        default=None,
        description=f"of devices: no rank above it; none: {MAX_RANK}; over a network also of ranks "
        "that clients tell, which have no bound without it",
    )
    traffic: str | None = Field(
        default=None,
        description='of devices: bytes that a client is sent and sends in a round, like "50MB"; '
        "none: any",
    )
    leave_out: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        default=None,
        description="share of the energy of all that was learned that what a client is sent may "
        "leave out: it trains at the lowest ranks that do, within its own; none: always at its own",
    )
    leave_out_every: Positive = Field(
        default=1,
        description="of leave_out: ranks are chosen anew every so many rounds, and stand until "
        "then; the first are chosen after so many rounds",
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

    @field_validator("traffic")
    @classmethod
    def _an_amount(cls, given: str | None) -> str | None:
        return quantity_of(given, MEMORY)

    @model_validator(mode="after")
    def _every_of_what(self) -> ClientsConfig:
        if self.leave_out is None and self.leave_out_every != 1:
            raise ValueError(
                f"leave_out_every is {self.leave_out_every} without leave_out, which says what is "
                "chosen; give leave_out, like 0.05, or leave it out, too"
            )
        return self

    @model_validator(mode="after")
    def _devices_or_a_mix(self) -> ClientsConfig:
        if self.devices is None:
            return self
        others = {"mix": self.mix, "types": self.types or None, "scale": self.scale}
        for key, value in others.items():
            if value not in (None, 1.0):
                raise ValueError(
                    f"devices is {shown(self.devices)} and {key} is {shown(value)}, which both say "
                    "who trains at which rank; give one of them"
                )
        return self

    @property
    def most_bytes(self) -> float | None:
        """`traffic` as a number."""
        return None if self.traffic is None else quantity(self.traffic, MEMORY, "clients.traffic")

    def build_mix(self) -> Mix:
        """The mix with its ranks scaled. Raises ConfigError for shares or types that are wrong."""
        return build_mix("uniform" if self.mix is None else self.mix, self.types, self.scale)

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
