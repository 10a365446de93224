"""What a run directory tells of its run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flexlora.errors import RunError
from flexlora.federation import run
from flexlora.runs import Result
from flexlora.runs.events import Failed
from flexlora.runs.overview import overview
from flexlora.runs.run_directory import Run
from small import small


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(small(rule={"name": "hetlora"}), tmp_path_factory.mktemp("runs") / "r")


@pytest.fixture
def folder(result: Result, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(result.folder, tmp_path / "r"))


def test_a_finished_run(result: Result) -> None:
    found = overview(result.folder)
    records = Run.open(result.folder).read_metrics()
    assert (found["kind"], found["state"]) == ("run", "finished")
    assert (found["round"], found["rounds"], found["rounds_played"]) == (3, 3, 3)
    assert found["rule"] == {"name": "hetlora"}
    assert found["model"] == {"name": "tiny", "dtype": "float32"}
    assert (found["parent"], found["failures"]) == (None, [])
    assert found["best"]["round"] == result.scored_round
    wanted = next(r for r in records if r["round"] == result.scored_round)["validation"]
    assert found["best"]["validation"] == wanted
    assert found["last"]["train_loss"] == records[-1]["train_loss"]
    assert (found["bytes_up"], found["bytes_down"]) == (result.bytes_up, result.bytes_down)
    assert found["seconds"] == pytest.approx(result.seconds)
    on_disk = sum(p.stat().st_size for p in result.folder.rglob("*") if p.is_file())
    assert found["bytes_on_disk"] == on_disk
    assert json.loads(json.dumps(found)) == found


def test_who_took_part_at_which_rank(result: Result) -> None:
    found = overview(result.folder)
    records = Run.open(result.folder).read_metrics()
    for client, told in found["clients"].items():
        assert told["rounds"] == [r["round"] for r in records if client in r["clients"]]
        assert all(
            rank <= int(found["types"][told["type"]]["ranks"]) for rank in told["ranks"].values()
        )
    assert sum(len(c["rounds"]) for c in found["clients"].values()) == 6
    for name, rank in (("low", "2"), ("high", "4")):
        counted = sum(r["types"].get(name, 0) for r in records)
        told = found["types"][name]
        assert told == {"ranks": rank, "clients": 2, "replies": counted, "failures": 0}


def test_failures_are_told_by_client_and_type(folder: Path) -> None:
    opened = Run.open(folder)
    client = opened.read_metrics()[0]["clients"][0]
    for name in (client, "nobody that is known"):
        opened.append_event(Failed(2, name, "its disk is full"))
    with open(folder / "events.jsonl", "a") as file:
        file.write('{"round": 2, "event": "something else"}\n')
    found = overview(folder)
    assert [told["reason"] for told in found["failures"]] == ["its disk is full"] * 2
    assert found["clients"][client]["failures"] == 1
    assert found["types"][found["clients"][client]["type"]]["failures"] == 1


def unfinished(folder: Path, lines: int) -> Run:
    """As if it had been stopped after so many rounds."""
    (folder / "results.json").unlink()
    path = folder / "metrics.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))
    return Run.open(folder)


def test_the_states_of_a_run(folder: Path) -> None:
    opened = unfinished(folder, 3)
    assert overview(folder)["state"] == "not scored"
    with opened.locked():
        assert overview(folder)["state"] == "running"
    unfinished_again = overview(folder)
    assert unfinished_again["state"] == "not scored"


@pytest.mark.parametrize(("lines", "state"), [(2, "stopped"), (0, "never started")])
def test_a_run_that_was_stopped(folder: Path, lines: int, state: str) -> None:
    unfinished(folder, lines)
    found = overview(folder)
    assert (found["state"], found["round"], found["rounds_played"]) == (state, lines, lines)


def test_patience_ends_a_run_before_its_last_round(folder: Path) -> None:
    unfinished(folder, 2)
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("patience = 0", "patience = 1"))
    meta = sorted((folder / "checkpoints").glob("*/meta.json"))[-1]
    document: dict[str, Any] = json.loads(meta.read_text())
    document["meta"]["progress"]["stale"] = 1
    meta.write_text(json.dumps(document))
    assert overview(folder)["state"] == "not scored"


def test_a_run_without_a_single_round(tmp_path: Path) -> None:
    made = Run.create(small(), tmp_path / "r", resolved={"threads": 1, "layers": 8})
    found = overview(made.folder)
    assert found["state"] == "never started"
    assert (found["best"], found["last"], found["clients"], found["types"]) == (None, None, {}, {})


def test_what_is_damaged_or_no_run_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run"):
        overview(tmp_path)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text('{"round": 1}\n' + "\n".join(lines[1:]) + "\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 1 is damaged \(learning_rate is"):
        overview(folder)
