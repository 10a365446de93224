"""A config's clients are dealt to silos: every row to one of them, and each loads its own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flexlora.errors import ConfigError
from flexlora.federation.ground import Ground
from flexlora.flower.client_file import parse_client
from flexlora.flower.part import dealt_to
from flexlora.flower.silos import silos_of
from flower.trainers import networked, plan_of

FOUR = networked(data={"train_tasks": 4}, federation={"clients_per_round": 1.0})


def test_as_many_silos_as_clients_are_those_clients(tmp_path: Path) -> None:
    found = silos_of(FOUR, 4, [1, 4, 16, 64], tmp_path)
    names = sorted(Ground.of(FOUR).examples.train)
    assert list(found) == names
    files = [parse_client(tables) for tables in found.values()]
    assert [file.client.name for file in files] == names
    assert [file.client.rank for file in files] == [1, 4, 16, 64]
    assert len({file.client.folder for file in files}) == 4
    assert all(file.client.owners == () for file in files)


@pytest.mark.parametrize("silos", [1, 3])
def test_fewer_silos_hold_the_rows_of_several(silos: int, tmp_path: Path) -> None:
    found = silos_of(FOUR, silos, None, tmp_path)
    assert list(found) == [f"silo {place + 1}" for place in range(silos)]
    held: list[Any] = []
    for tables in found.values():
        file = parse_client(tables)
        assert file.client.rank is None
        (one,) = dealt_to(file, plan_of(FOUR).config_for(file)).clients
        held += one.train
    everything = [x for one in _clients() for x in one.train]
    assert sorted(map(repr, held)) == sorted(map(repr, everything))


def _clients() -> Any:
    from flexlora.federation.examples import Dealt

    return Dealt.of(FOUR).clients


@pytest.mark.parametrize(
    ("silos", "ranks", "tables", "told"),
    [
        (5, None, {}, "--clients is 5, but the data comes to 4 clients; lower it"),
        (2, [1, 2, 3], {}, "--ranks has 3 and --clients is 2; give a rank for each"),
        (2, None, {"clients_per_round": 3}, "clients_per_round is 3 but there are 2 clients"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_begins(
    silos: int, ranks: Any, tables: dict[str, Any], told: str, tmp_path: Path
) -> None:
    config = networked(data={"train_tasks": 4}, federation={"clients_per_round": 1.0, **tables})
    with pytest.raises(ConfigError, match=told):
        silos_of(config, silos, ranks, tmp_path)


def test_processor_cores_are_shared_unless_the_config_says_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 9)
    assert all("run" not in tables for tables in silos_of(FOUR, 4, None, tmp_path).values())
    free = FOUR.model_copy(update={"run": FOUR.run.model_copy(update={"threads": None})})
    shared = silos_of(free, 4, None, tmp_path)
    assert [tables["run"]["threads"] for tables in shared.values()] == [2] * 4
