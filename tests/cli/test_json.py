"""--json and --quiet: stdout is for machines alone."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from commands import Done, Flexlora
from flexlora.runs.events import EVENTS
from flexlora.runs.run_directory import Run
from small import small, write
from warm import Warm

FEW = ("--tasks", 1, "--examples", 1, "--max-new-tokens", 1, "--max-tokens", 250)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write(small(federation={"rounds": 2}), tmp_path / "c.toml")


def strict(text: str) -> Any:
    """JSON as other parsers read it: without NaN and infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


def events(done: Done) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    return [strict(line) for line in done.out.splitlines()]


def test_a_run_is_a_line_for_every_event(flexlora: Flexlora, config: Path, tmp_path: Path) -> None:
    told = events(flexlora("run", config, "--out", tmp_path / "r", "--json"))
    run = Run.open(tmp_path / "r")
    assert told == run.read_events()
    assert [event.pop("event") for event in told] == [
        "started",
        *["round_begun", "reply", "reply", "round"] * 2,
        *["scoring"] * 4,
        "result",
    ]
    times = [event.pop("time") for event in told]
    assert times == sorted(times)
    assert told[0] == {
        "run": str(tmp_path / "r"),
        "rule": "flexlora",
        "model": "tiny",
        "rounds": 2,
        "round": 0,
        "clients": run.resolved["clients"],
        "trackers": [],
        "schema": 1,
    }
    assert told[4:9:4] == run.read_metrics()
    for begun, one, other, ended in (told[1:5], told[5:9]):
        assert sorted(begun["clients"]) == sorted([one["client"], other["client"]])
        assert sorted(begun["clients"]) == ended["clients"]
        assert one["bytes_up"] + other["bytes_up"] == ended["bytes_up"]
        assert one["examples"] + other["examples"] == ended["examples"]
    assert [event["state"] for event in told[9:13]] == ["base", "full", "high", "low"]
    results = run.read_results() or {}
    for row in results["rows"]:
        assert set(row["own"]["types"]) == {"high", "low"}
        row["unseen"] = {"mean": row["unseen"]["mean"]}
        row["own"] = {name: row["own"][name] for name in ("mean", "types")}
    assert told[13] == {"run": str(tmp_path / "r"), **results}
    # One that has ended is told by its result alone, and adds no event.
    (again,) = events(flexlora("resume", tmp_path / "r", "--json"))
    assert again.pop("event") == "result"
    assert again.pop("time") >= times[-1]
    assert again == told[13]
    assert len(run.read_events()) == len(told)


def test_failures_are_events_and_errors_stay_on_stderr(
    flexlora: Flexlora, config: Path, tmp_path: Path
) -> None:
    wild = ("--set", "training.learning_rate=1e30", "--set", "training.clip_norm=0")
    done = flexlora("run", config, "--out", tmp_path / "r", "--json", *wild)
    assert done.code == 1
    told = [strict(line) for line in done.out.splitlines()]
    kinds = [event["event"] for event in told]
    assert kinds == ["started", "round_begun", "failure", "failure"]
    assert told == Run.open(tmp_path / "r").read_events()
    assert done.err.startswith("flexlora: round 1: none of 2 clients")


def test_a_real_process_keeps_stdout_for_json_though_a_tracker_talks(
    config: Path, tmp_path: Path, warm: Warm
) -> None:
    words = ["--out", "r", "--json", "--set", "run.trackers=['tensorboard']"]
    done = subprocess.run(
        ["flexlora", "run", config, *words],
        cwd=tmp_path,
        env={**os.environ, **warm.environment},
        capture_output=True,
        text=True,
    )
    told = events(Done(done.returncode, done.stdout, done.stderr))
    assert told[0]["trackers"] == ["tensorboard"]
    notes = [event["text"] for event in told if event["event"] == "note"]
    assert notes == ["tracker tensorboard: tensorboard --logdir ."]
    assert done.stderr == ""


def test_a_dry_run_is_one_document(flexlora: Flexlora, config: Path, tmp_path: Path) -> None:
    done = flexlora("run", config, "--out", tmp_path / "r", "--dry-run", "--json")
    plan = strict(done.out)
    assert set(plan) == {"config", "data", "forecast", "layers", "memory", "parent"}
    assert plan["config"]["federation"]["rounds"] == 2
    assert {kind["name"] for kind in plan["forecast"]["types"]} == {"low", "high"}
    assert len(plan["data"]["partition"]["clients"]) == plan["data"]["clients"] == 4
    assert plan["parent"] is None
    assert not (tmp_path / "r").exists()


def test_eval_is_one_document(flexlora: Flexlora) -> None:
    found = strict(flexlora("eval", "tiny", "--data", "embedded", *FEW, "--json").out)
    assert (found["model"], found["adapter"], found["left_out"]) == ("tiny", None, 0)
    assert found["mean"]["examples"] == len(found["clients"]) == 1
    assert found["mean"]["loss"] > 0


def test_the_demo_is_four_runs(flexlora: Flexlora, tmp_path: Path) -> None:
    table = {"data.facts": 8, "training.epochs": 1, "federation.rounds": 1}
    settings = [part for key, value in table.items() for part in ("--set", f"{key}={value}")]
    told = events(flexlora("demo", "--out", tmp_path / "json", "--json", *settings))
    rounds = ["round_begun", *["reply"] * 4, "round"]
    ends = [event for event in told if event["event"] == "result"]
    assert len(ends) == 4
    kinds = [event["event"] for event in told if event["event"] not in ("scoring", "note")]
    assert kinds == ["started", *rounds, "result"] * 4
    quiet = flexlora("demo", "--out", tmp_path / "quiet", "--quiet", *settings)
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out.splitlines() == [
        str(tmp_path / "quiet" / f"{name}-1")
        for name in ("all-weakest", "flexlora", "flexlora-increment", "all-strongest")
    ]


def test_quiet_prints_the_run_directory_alone(
    flexlora: Flexlora, config: Path, tmp_path: Path
) -> None:
    where = tmp_path / "r"
    for arguments in (("run", config, "--out", where), ("resume", where)):
        done = flexlora(*arguments, "--quiet")
        assert (done.code, done.out, done.err) == (0, f"{where}\n", "")
    done = flexlora("run", config, "--dry-run", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_help_documents_the_events(flexlora: Flexlora) -> None:
    words = " ".join(flexlora("run", "--help").out.split())
    for event in EVENTS:
        assert f"{event}:" in words
