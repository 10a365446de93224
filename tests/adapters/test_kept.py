"""A rank as it is typed, and a rank or an energy but not both."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flexlora.adapters.kept import parsed_rank, require_rank_or_energy
from flexlora.errors import ConfigError, RankError
from reference import as_in_production


@pytest.mark.parametrize(
    ("typed", "rank"), [("full", "full"), ("3", 3), (" 12 ", 12), ("-1", -1), (4, 4)]
)
def test_a_rank_is_a_whole_number_or_full(typed: int | str, rank: int | str) -> None:
    assert parsed_rank(typed, "rank") == rank


@pytest.mark.parametrize(
    "typed",
    ["", "2.5", "Full", "²", "1e3", "9" * 5000, 3.7, 3.0, math.inf, math.nan, True, None, [2]],
)
def test_what_is_not_whole_is_no_rank(typed: Any) -> None:
    with as_in_production(), pytest.raises(RankError) as caught:
        parsed_rank(typed, f"--rank {typed}")
    message = f"--rank {typed} is no whole number; give 1 or more, or 'full'"
    assert str(caught.value) == message


@pytest.mark.parametrize(("rank", "energy"), [(2, None), ("full", None), (None, 1e-9), (None, 1.0)])
def test_just_one_passes(rank: int | str | None, energy: float | None) -> None:
    require_rank_or_energy(rank, energy, "how much is kept")


@pytest.mark.parametrize(("rank", "energy"), [(None, None), (2, 0.5), (0, 0.0)])
def test_neither_and_both_are_refused(rank: int | None, energy: float | None) -> None:
    given = "neither is given" if rank is None else "both are given"
    with pytest.raises(ConfigError) as caught:
        require_rank_or_energy(rank, energy, "how much is kept", dashes="--")
    words = f"give just one of --rank and --energy ({given}): how much is kept"
    assert str(caught.value) == words
    with pytest.raises(ConfigError, match=r"^give just one of rank and energy "):
        require_rank_or_energy(rank, energy, "how much is kept")


@pytest.mark.parametrize("energy", [0.0, -0.5, 1.0001, math.nan, math.inf])
def test_an_energy_is_a_share(energy: float) -> None:
    words = f"energy is {energy}; give a share above 0 and at most 1, like 0.999"
    with pytest.raises(ConfigError) as caught:
        require_rank_or_energy(None, energy, "how much is kept")
    assert str(caught.value) == words
