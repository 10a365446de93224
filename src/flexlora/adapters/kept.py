"""How much of an update is to be kept: what a rank or a share of the energy may be."""

from __future__ import annotations

from typing import Literal

from flexlora.errors import ConfigError, RankError


def parsed_rank(rank: int | str, shown: str) -> int | Literal["full"]:
    """A rank as it was typed: a whole number, whether or not it fits, or "full".

    Raises RankError for other text and for a number that is not whole; shown: what its message
    begins with.
    """
    if rank == "full":
        return "full"
    try:
        if isinstance(rank, str) or type(rank) is int:
            return int(rank)
        raise ValueError(rank)
    except ValueError as error:
        raise RankError(f"{shown} is no whole number; give 1 or more, or 'full'") from error


def require_rank_or_energy(
    rank: object, energy: float | None, purpose: str, *, dashes: str = ""
) -> None:
    """Raise ConfigError unless just one of them is given, and an energy is above 0 and at most 1.

    purpose: what they are to say, for the message; dashes: what stands before their names where
    they were typed. The rank itself is not looked at.
    """
    if (rank is None) == (energy is None):
        given = "neither is given" if rank is None else "both are given"
        raise ConfigError(f"give just one of {dashes}rank and {dashes}energy ({given}): {purpose}")
    if energy is None:
        return
    number = isinstance(energy, int | float) and not isinstance(energy, bool)
    if not number or not 0.0 < energy <= 1.0:
        raise ConfigError(
            f"{dashes}energy is {energy!r}; give a share above 0 and at most 1, like 0.999"
        )
