"""A run that is rehearsed with faults, from its config to what people read of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from flexlora.config.config import Config
from flexlora.config.config_file import load_config, make_config, parse_config
from flexlora.errors import ConfigError
from flexlora.federation import run
from flexlora.federation.setup import prepare
from flexlora.report.failures import failures
from flexlora.report.read import read_runs
from flexlora.runs.events import Failed, Noted, Rested
from flexlora.runs.overview import overview
from flexlora.runs.run_directory import Run
from same_run import assert_same_run
from small import small, write

FAULTS: dict[str, dict[str, Any]] = {
    "faults": {"drop": 0.2, "corrupt": 0.15, "duplicate": 0.1, "crash": 0.2, "seed": 1},
    "federation": {
        "rounds": 4,
        "clients_per_round": 2,
        "over_sample": 1.5,
        "min_clients": 2,
        "attempts": 20,
        "rest_after": 2,
        "rest_rounds": 1,
    },
    "evaluation": {"on_clients": "global"},
}
SAID = "faults are made on purpose: drop 0.2, duplicate 0.1, corrupt 0.15, crash 0.2 (seed 1)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(small(**FAULTS), tmp_path_factory.mktemp("runs") / "r").folder


def test_what_happened_is_in_the_directory(folder: Path) -> None:
    found = Run.open(folder)
    records = found.records()
    assert len(records) == 4
    assert all(len(record.clients) == 2 for record in records)
    assert {"train", "quarantine", "stray"} <= {event.kind for event in found.events(Failed)}
    assert SAID in [event.text for event in found.events(Noted)]
    assert SAID in found.data["notes"]
    told = overview(folder)
    assert told["faults"] == SAID
    wanted = {str(r.round): r.attempts for r in records if r.attempts > 1}
    assert wanted
    assert told["attempts"] == wanted
    assert told["spare"] == sum(len(record.spare) for record in records) > 0
    assert set(told["rested"]) == {event.client for event in found.events(Rested)} != set()


@pytest.mark.soak
def test_workers_meet_the_same_faults(folder: Path, tmp_path: Path) -> None:
    tables = {**FAULTS, "run": {"workers": 2}}
    assert_same_run(run(small(**tables), tmp_path / "w").folder, folder)


def test_the_report_counts_what_the_records_say(folder: Path) -> None:
    (run_read,) = read_runs([folder])
    section = failures([run_read])
    tables = {getattr(block, "caption", ""): block for block in section.blocks}
    rows: Any = tables["Rounds that took more than one attempt"]
    wanted = sum(r.attempts for r in run_read.rounds if r.attempts > 1)
    assert len(rows.rows) == wanted
    calm = dataclasses.replace(run_read, config={}, failed=(), refused=(), rested=(), rounds=())
    assert [type(block).__name__ for block in failures([calm]).blocks] == ["Note"]


def test_faults_stand_in_the_config_only_where_they_are_asked_for(tmp_path: Path) -> None:
    assert "faults" not in Config().document()
    config = small(**FAULTS)
    assert load_config(write(config, tmp_path / "c.toml")) == config
    assert parse_config(config.document()) == config


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"faults": {"drop": 0.7, "crash": 0.4}}, r"\[faults\]: the rates add up to 1.1, expected"),
        ({"faults": {"drop": 1.5}}, r"faults.drop is 1.5, expected 1 or less"),
        ({"faults": {"dorp": 0.5}}, r"faults.dorp is unknown; did you mean 'drop'"),
        ({"federation": {"min_share": 1.5}}, r"federation.min_share is 1.5, expected 1 or less"),
        ({"federation": {"over_sample": 0.5}}, r"over_sample is 0.5, expected 1 or more"),
        ({"federation": {"attempts": 0}}, r"federation.attempts is 0, expected 1 or more"),
        ({"federation": {"rest_rounds": 0}}, r"federation.rest_rounds is 0, expected 1 or more"),
        ({"federation": {"most_examples": 0}}, r"most_examples is 0, expected 1 or more"),
    ],
)
def test_wrong_values_are_told(tables: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_config(**tables)


def test_a_quorum_that_no_round_can_have_is_told_before_anything_trains() -> None:
    config = small(federation={"min_clients": 3})
    with pytest.raises(ConfigError, match="min_clients is 3, but a round has 2 clients; lower"):
        prepare(config, outline=True)
